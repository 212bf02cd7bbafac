"""Arguments that several commands share, and the consoles that commands print to."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from sweep.console import SafeConsole

Config = Annotated[Path, typer.Argument(help="YAML file of the sweep, e.g. clusters/local.yaml.", metavar="CONFIG")]
Set = Annotated[
    list[str],
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override a key of the YAML, e.g. sweep.seeds=5. Repeatable. `schema` lists all keys.",
    ),
]
All = Annotated[bool, typer.Option("--all", help="Show every launch of this sweep, not only the latest.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Go ahead without asking.")]
PLAIN_WIDTH = 120  # columns of tables that are printed to a file or a pipe
out = SafeConsole(highlight=False, width=None if sys.stdout.isatty() else PLAIN_WIDTH)
err = SafeConsole(stderr=True, highlight=False)


def print_json(value: Any) -> None:
    """Print a value as JSON on standard output."""
    sys.stdout.write(json.dumps(value, indent=2, default=str) + "\n")


def ask(question: str) -> None:
    """Ask the user to confirm; returns only if the answer is yes.

    Raises:
        UserError: standard input is no terminal, so no one can answer.
        typer.Abort: the answer is no.
    """
    from sweep.errors import UserError

    if not sys.stdin.isatty():
        raise UserError("standard input is no terminal, so the question cannot be answered: add -y to go ahead")
    typer.confirm(question, abort=True)
