"""The command line: all commands, and how their errors are printed."""

from __future__ import annotations

import sys

import typer

from sweep.cli import data as data_verbs
from sweep.cli import results, run
from sweep.cli.options import err

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,  # boxes around the help texts would double the time of `--help`
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Compare anomaly detectors: one YAML in, a leaderboard with error bars out.\n\n"
    "Start with `python -m sweep launch clusters/local.yaml`.  The same command resumes a launch that was stopped.\n\n"
    "\b\n"
    "python -m sweep plan clusters/local.yaml       what would run; starts nothing\n"
    "python -m sweep launch clusters/local.yaml     run it, and print the leaderboard\n"
    "python -m sweep report clusters/local.yaml     the leaderboard again, at any time\n"
    "python -m sweep schema                         every key of the YAML\n\n"
    "clusters/ has an example file for each provider of machines: local, aws, onprem, slurm, existing.  Each command "
    "has its own help: `python -m sweep COMMAND --help`.\n\n"
    "Exit codes: 0 done, 1 a problem, printed with its fix, 2 an unknown command or option.  `launch` has more.",
)
VERBS = (
    run.launch, run.plan, run.check, run.status, run.down,
    results.report, results.verify, results.trial, results.score, results.schema,
)  # fmt: skip
for verb in VERBS:
    app.command()(verb)
app.add_typer(data_verbs.app, name="data")


def main() -> None:
    """Run a command.  A problem that the user can fix is printed and gives exit code 1, never a traceback."""
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
        sys.exit(0)  # the program that reads our output, such as head, has closed the pipe: no problem
