"""Pin every package of the environment exactly: write `constraint-dependencies` into pyproject.toml.

    uv lock --upgrade && python tests/pin.py

The lock file is not kept, because it contains the address of the server that it was made with.
"""

from __future__ import annotations

import re
import tomllib
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OLD = "python_full_version < '3.12'"  # some packages have versions that Python 3.11 cannot use
NEW = "python_full_version >= '3.12'"


def pins(lock: dict[str, list[dict[str, object]]]) -> list[str]:
    """Return one constraint for each package, or two if Python 3.11 needs an older version."""
    versions: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for package in lock["package"]:
        if "version" in package:
            versions[str(package["name"])].append((str(package["version"]), str(package.get("resolution-markers"))))
    lines = []
    for name, found in sorted(versions.items()):
        if name == "anomaly-sweep":
            continue
        if len(found) == 1:
            lines.append(f"{name}=={found[0][0]}")
            continue
        assert len(found) == 2, f"{name} has {len(found)} versions: give it a marker here"
        for version, markers in found:
            lines.append(f"{name}=={version} ; {OLD if OLD in markers else NEW}")
    return lines


def main() -> None:
    lock = tomllib.loads((ROOT / "uv.lock").read_text())
    block = "\n".join(f'  "{pin}",' for pin in pins(lock))
    path = ROOT / "pyproject.toml"
    pattern = r"(?ms)^constraint-dependencies = \[\n.*?^\]"
    path.write_text(re.sub(pattern, f"constraint-dependencies = [\n{block}\n]", path.read_text()))


if __name__ == "__main__":
    main()
