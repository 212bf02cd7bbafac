"""Start a cloud to try things: `python -m tests.lab [FOLDER]`, then a Python prompt with `cloud`."""

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
        code.interact(f"logs and events: {folder}; Ctrl-D ends the cloud", local={"cloud": made})
