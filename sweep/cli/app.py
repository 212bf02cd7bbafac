"""The command line: its verbs, and what becomes of their problems."""

from __future__ import annotations

import sys

import typer

from sweep.cli import data as data_verbs
from sweep.cli import results, run
from sweep.cli.options import err

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,  # the boxes around help cost as much time as all the rest of it
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Compare anomaly detectors: one YAML in, a leaderboard with error bars out.\n\n"
    "Start with `python -m sweep launch clusters/local.yaml`; the same command resumes what was stopped.",
)
VERBS = (
    run.launch, run.plan, run.check, run.status, run.down,
    results.report, results.verify, results.trial, results.score, results.schema,
)  # fmt: skip
for verb in VERBS:
    app.command()(verb)
app.add_typer(data_verbs.app, name="data")


def main() -> None:
    """Run a verb; a problem of the user's is a message and exit code 1, never a traceback."""
    from data.errors import DataError
    from sweep.errors import UserError
    from sweep.store.base import StoreError

    try:
        app(prog_name="python -m sweep")
    except UserError as error:
        if error.heading:
            err.print(error.heading, style="bold red")
        for problem in error.problems:
            err.print(f"error: {problem}", style="red", markup=False, soft_wrap=True)
        sys.exit(1)
    except (StoreError, DataError) as error:
        err.print(f"error: {error}", style="red", markup=False, soft_wrap=True)
        sys.exit(1)
    except BrokenPipeError:
        sys.exit(0)  # the reader of our output, such as head, has seen enough
