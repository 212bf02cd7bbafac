"""The command line: all commands, and how their errors are printed."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence

import typer

from sweep.cli import data as data_verbs
from sweep.cli import results, run
from sweep.cli.options import err
from sweep.console import write_anything

DEBUG = "SWEEP_DEBUG"  # variable that shows the traceback of a defect

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
    """Run a command.  A problem that the user can fix is printed and gives exit code 1, never a traceback.

    Any other error is a defect of this program.  It is one line too, with the file that has the traceback.
    """
    from data.errors import DataError
    from sweep.errors import UserError
    from sweep.store.base import StoreError

    write_anything()
    try:
        app(prog_name="python -m sweep")
    except UserError as error:
        _print_problems(error.problems, error.heading)
    except (StoreError, DataError) as error:
        _print_problems([str(error)])
    except BrokenPipeError:
        sys.exit(0)  # the program that reads our output, such as head, has closed the pipe: no problem
    except Exception as error:
        problem = _full_disk(error)
        if not problem and os.environ.get(DEBUG) == "1":
            raise
        _print_problems([problem or _defect(error)])
    else:
        return
    sys.exit(1)


def _print_problems(problems: Sequence[str], heading: str = "") -> None:
    from sweep.errors import printed
    from sweep.redaction import hide_secrets

    if heading:
        err.print(hide_secrets(heading), style="bold red", markup=False, soft_wrap=True)
    for problem in printed([hide_secrets(problem) for problem in problems]):
        err.print(f"error: {problem}", style="red", markup=False, soft_wrap=True)


def _full_disk(error: Exception) -> str:
    """Return the line for a disk that is full; "" for any other error."""
    if not isinstance(error, OSError) or error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return ""
    where = f" (writing {error.filename})" if error.filename else ""
    return f"a disk is full{where}: free some space for temporary files, data.cache and storage, then run it again"


def _defect(error: Exception) -> str:
    """Write the traceback of a defect to a file, and return the line that names it."""
    import tempfile
    import traceback

    from sweep.redaction import hide_secrets

    text = hide_secrets("".join(traceback.format_exception(error)))
    what = f"{type(error).__name__} in this program, which is a defect of it and not of your input"
    try:
        with tempfile.NamedTemporaryFile("w", prefix="sweep-defect-", suffix=".txt", delete=False) as file:
            file.write(text.encode(errors="backslashreplace").decode())
    except OSError:
        return f"{what}; to see the traceback, run it again with {DEBUG}=1"
    return f"{what}; the traceback is in {file.name}: please report it, or run it again with {DEBUG}=1 to see it here"
