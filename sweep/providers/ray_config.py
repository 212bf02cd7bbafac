"""Common parts of the configurations for Ray's cluster launcher: Ray's own checks, and printing.

`validate` is the only function here that imports Ray.
"""

from __future__ import annotations

import logging
from typing import Any

import yaml

from sweep.errors import UserError
from sweep.spec.ray_settings import RAY_SETTINGS

UV = "uv==0.13.9"  # it makes the Python environment on machines without one
PLAIN_WIDTH = 120  # columns of the printed YAML
OBJECT_STORE = 150 * 2**20  # bytes of memory on each machine; results are small, and images are in a cache on disk


def text(config: dict[str, Any]) -> str:
    """Return the configuration as YAML, with scripts as blocks."""

    class Dumper(yaml.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:
            return True

    def block(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
        style = "|" if "\n" in value else None
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)

    Dumper.add_representer(str, block)
    return yaml.dump(config, Dumper=Dumper, sort_keys=False, width=PLAIN_WIDTH)


def validate(config: dict[str, Any]) -> dict[str, Any]:
    """Return the configuration after Ray's own checks, with Ray's defaults.

    Raises:
        UserError: Ray refuses it.  The generated part always passes, so the problem is in `cluster.ray`.
    """
    from click import ClickException
    from jsonschema import ValidationError
    from ray.autoscaler._private.util import prepare_config, validate_config

    # Ray warns of two keys that its own defaults contain.
    logging.getLogger("ray.autoscaler._private.util").setLevel(logging.ERROR)
    try:
        prepared: dict[str, Any] = prepare_config(config)
        validate_config(prepared)
    except ValidationError as error:
        key = ".".join(["cluster.ray", *map(str, error.absolute_path)])
        raise UserError(f"{key}: Ray's launcher refuses it: {error.message}") from None
    except ClickException as error:  # meant for Ray's own command line, which would print it
        raise UserError(f"cluster.ray: Ray's launcher refuses it: {error.message}") from None
    except (AssertionError, AttributeError, KeyError, NotImplementedError, TypeError, ValueError) as error:
        raise UserError(f"cluster.ray: Ray's launcher refuses it: {error!r}") from None
    return prepared


def export_line(**more: str) -> str:
    """Return one line of shell that exports `RAY_SETTINGS` and more variables.

    Args:
        more: values as words of the shell, quoted by the caller.
    """
    return " ".join(["export", *(f"{name}={value}" for name, value in {**RAY_SETTINGS, **more}.items())])
