"""Arguments that several verbs take, and where verbs print."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

Config = Annotated[Path, typer.Argument(help="YAML of the sweep, e.g. clusters/local.yaml", metavar="CONFIG")]
Set = Annotated[
    list[str],
    typer.Option("--set", metavar="KEY=VALUE", help="Override a key, e.g. sweep.seeds=5; see `schema`. Repeatable."),
]
All = Annotated[bool, typer.Option("--all", help="Of every launch of this sweep, not the latest alone.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
PLAIN_WIDTH = 120  # of tables that go to a file or a pipe
out = Console(highlight=False, width=None if sys.stdout.isatty() else PLAIN_WIDTH)
err = Console(stderr=True, highlight=False)


def print_json(value: Any) -> None:
    """To standard output, for programs."""
    sys.stdout.write(json.dumps(value, indent=2, default=str) + "\n")


def ask(question: str) -> None:
    """Go on only if a person says so.

    Raises:
        UserError: nobody is there to be asked.
        typer.Abort: the answer is no.
    """
    from sweep.errors import UserError

    if not sys.stdin.isatty():
        raise UserError("nobody is there to be asked: add -y to go ahead")
    typer.confirm(question, abort=True)
