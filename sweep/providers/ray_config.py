"""What every configuration of Ray's cluster launcher has in common: Ray's own checks, and how it is printed.

`validated` is the one place here that imports Ray.
"""

from __future__ import annotations

import logging
from typing import Any

import yaml

from sweep.errors import UserError

UV = "uv==0.13.9"  # which makes the Python environment where there is none
PLAIN_WIDTH = 120


def text(config: dict[str, Any]) -> str:
    """The configuration as YAML, scripts as blocks."""

    class Dumper(yaml.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:
            return True

    def block(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
        style = "|" if "\n" in value else None
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)

    Dumper.add_representer(str, block)
    return yaml.dump(config, Dumper=Dumper, sort_keys=False, width=PLAIN_WIDTH)


def validate(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration after Ray's own checks.

    Raises:
        UserError: Ray refuses it; what is generated passes, so `cluster.ray` holds the problem.
    """
    from click import ClickException
    from jsonschema import ValidationError
    from ray.autoscaler._private.util import prepare_config, validate_config

    # It warns of two keys that its own defaults bring along.
    logging.getLogger("ray.autoscaler._private.util").setLevel(logging.ERROR)
    try:
        prepared: dict[str, Any] = prepare_config(config)
        validate_config(prepared)
    except ValidationError as error:
        place = ".".join(["cluster.ray", *map(str, error.absolute_path)])
        raise UserError(f"{place}: Ray's launcher refuses it: {error.message}") from None
    except ClickException as error:  # which Ray's own command line would have printed
        raise UserError(f"cluster.ray: Ray's launcher refuses it: {error.message}") from None
    except (AssertionError, AttributeError, KeyError, NotImplementedError, TypeError, ValueError) as error:
        raise UserError(f"cluster.ray: Ray's launcher refuses it: {error!r}") from None
    return prepared


OBJECT_STORE = 150 * 2**20  # bytes of each machine's memory: results are small, images are mapped from a cache


SETTINGS = {
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",  # there may be no internet
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # else `uv run` rebuilds the environment in every worker
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # detectors of the user's own are imported from the code's folder
    "PYTHONWARNINGS": "ignore",
}


def export_line(**more: str) -> str:
    """One line of shell that sets the environment of all that is started there; values are words of a shell."""
    return " ".join(["export", *(f"{name}={value}" for name, value in {**SETTINGS, **more}.items())])
