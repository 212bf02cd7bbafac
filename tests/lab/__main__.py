"""A cloud to play with: `python -m tests.lab [FOLDER]`, then Python with `cloud` in it."""

from __future__ import annotations

import code
import sys
import tempfile
from pathlib import Path

from tests.lab.cloud import cloud

if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp(prefix="lab-"))
    folder.mkdir(exist_ok=True)
    with cloud(folder) as made:
        code.interact(f"logs, and what happens: {folder}; Ctrl-D ends it", local={"cloud": made})
