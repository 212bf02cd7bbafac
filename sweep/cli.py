"""The verbs.  What a verb needs is imported inside it, so that `--help` is instant."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

if TYPE_CHECKING:
    from sweep.opened import Opened
    from sweep.reporting import Reporting
    from sweep.spec import Sweep

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,  # the boxes around help cost as much time as all the rest of it
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Compare anomaly detectors: one YAML in, a leaderboard with error bars out.\n\n"
    "Start with `python -m sweep launch clusters/local.yaml`; the same command resumes what was stopped.",
)
data_app = typer.Typer(no_args_is_help=True, help="Datasets in the store: put, verify, list.")
app.add_typer(data_app, name="data")

Config = Annotated[Path, typer.Argument(help="YAML of the sweep, e.g. clusters/local.yaml", metavar="CONFIG")]
Set = Annotated[
    list[str],
    typer.Option("--set", metavar="KEY=VALUE", help="Override a key, e.g. sweep.seeds=5; see `schema`. Repeatable."),
]
All = Annotated[bool, typer.Option("--all", help="Of every launch of this sweep, not the latest alone.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
PLAIN_WIDTH = 120  # of tables that go to a file or a pipe
out = Console(highlight=False, width=None if sys.stdout.isatty() else PLAIN_WIDTH)
err = Console(stderr=True, highlight=False)


@app.command()
def launch(
    config: Config,
    assignments: Set = [],  # noqa: B006  (typer reads it, nobody changes it)
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan, start nothing.")] = False,
    skip_failed: Annotated[bool, typer.Option("--skip-failed", help="Leave failed trials alone.")] = False,
) -> None:
    """Show the plan, ask, run it, report.

    Run it again to go on where it was stopped; what has a result is never run twice.

    \b
    python -m sweep launch clusters/local.yaml
    python -m sweep launch clusters/local.yaml -y --set sweep.seeds=5 --set sweep.datasets=[mnist]

    Exit codes: 0 done, 1 your input or the store, 2 some trials failed, 3 stopped by the budget, 130 by Ctrl-C.
    """
    from sweep.exits import DONE, SOME_FAILED
    from sweep.launch import Launch

    opened = _open(config, assignments)
    if not dry_run:
        opened.refuse_what_cannot_be_launched()
    state = opened.survey()
    out.print(opened.plan_table(state))
    if dry_run:
        return
    again = state.count("to_run") or (state.count("failed") and not skip_failed)
    if again and not yes:
        if not sys.stdin.isatty():
            raise _user_error("nobody is there to be asked: add -y to go ahead")
        typer.confirm("Proceed?", abort=True)
    code = SOME_FAILED if state.count("failed") else DONE
    if again:
        run = Launch(
            sweep=opened.sweep,
            work=opened.work,
            platform=opened.platform,
            store=opened.store,
            ledger=opened.ledger,
            console=out,
            log_command=lambda key: opened.command("trial", f"{key} --log"),
            skip_failed=skip_failed,
        )
        code = run.run()
    _reporting(opened).show(out)
    raise typer.Exit(code)


@app.command()
def plan(
    config: Config,
    assignments: Set = [],  # noqa: B006
    as_json: Json = False,
    ray_yaml: Annotated[
        bool, typer.Option("--ray-yaml", help="Print what Ray's launcher would be given, checked by Ray.")
    ] = False,
) -> None:
    """Show what would run, what is done, how long it will take and what it costs.

    Starts nothing.  Results of older revisions of the code are shown as stale and run again.
    Where the store cannot be reached, what is done is unknown, and all is counted as to run.

    \b
    python -m sweep plan clusters/local.yaml --set sweep.study=nz
    python -m sweep plan clusters/aws.yaml --ray-yaml
    """
    opened = _open(config, assignments)
    state, unreached = opened.survey_if_reached()
    if ray_yaml:
        sys.stdout.write(opened.ray_yaml(state))
    elif as_json:
        _print_json(opened.plan_json(state, unreached))
    else:
        out.print(opened.plan_table(state, unreached))
        out.print(f"Nothing was started.  Launch: {opened.command('launch')}", markup=False, soft_wrap=True)


@app.command()
def check(
    config: Config,
    assignments: Set = [],  # noqa: B006
    fix: Annotated[bool, typer.Option("--fix", help="Make what is missing and may be made: bucket and roles.")] = False,
    as_json: Json = False,
) -> None:
    """Look at everything that a launch needs: storage, data, slots; on a cloud the account, too.

    Starts nothing.  Each line is ok or not ok, with what mends it; exit code 1 if any is not ok.

    \b
    python -m sweep check clusters/aws.yaml
    python -m sweep check clusters/aws.yaml --fix
    """
    from sweep.check import check as look
    from sweep.findings import table

    found = look(_load(config, assignments), fix=fix)
    if as_json:
        findings = [finding.to_json() for finding in found.findings]
        _print_json({"passed": found.passed, "findings": findings, "commands": found.commands})
    else:
        out.print(table(found.findings))
        for kind, commands in found.commands.items():
            out.print(f"run on the {kind}:" if kind == "head" else f"run on each {kind}:")
            for command in commands:
                out.print(f"  {command}", style="dim", markup=False, soft_wrap=True)
    if not found.passed:
        raise typer.Exit(1)


@app.command()
def status(
    config: Config,
    assignments: Set = [],  # noqa: B006
    everything: All = False,
    as_json: Json = False,
    watch: Annotated[bool, typer.Option("--watch", help="Again every 5 seconds, until Ctrl-C.")] = False,
) -> None:
    """Show how far the sweep is, and its failures by cause.

    From the store alone: also while the sweep runs, from any machine that reaches the store.
    """
    import time

    opened = _open(config, assignments, as_launched=True, everything=everything)
    while True:
        state = opened.survey()
        if as_json:
            _print_json({**state.to_json(opened.platform.slots), "failures": state.failures()})
        else:
            out.print(opened.status_table(state))
            for cause, keys in state.failures().items():
                line = f"{len(keys)} x {cause}   log: {opened.command('trial', f'{keys[0]} --log')}"
                out.print(line, style="red", markup=False, soft_wrap=True)
        if not watch:
            return
        time.sleep(5)


@app.command()
def report(
    config: Config,
    assignments: Set = [],  # noqa: B006
    folder: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="Write report.html, figures, leaderboard.{csv,json,md,tex}, results.parquet here."
        ),
    ] = None,
    selection: Annotated[str, typer.Option(help="Epoch: last, val or oracle (best on test).")] = "last",
    evaluation: Annotated[str, typer.Option(help="clean, legacy_ordered or legacy_shuffled.")] = "clean",
    metric: Annotated[str, typer.Option(help="auroc, ap or fpr95.")] = "auroc",
    compare: Annotated[
        tuple[str, str] | None,
        typer.Option(metavar="A B", help="Two detectors instead, cell by cell: DeLong's test, and over seeds."),
    ] = None,
    bundle: Annotated[Path | None, typer.Option(help="Pack rows, scores and spec into this zip, for `verify`.")] = None,
    everything: All = False,
    as_json: Json = False,
) -> None:
    """Print the leaderboard from what the store holds.

    At any time, also while the sweep runs; what is missing is shown as missing.

    \b
    python -m sweep report clusters/local.yaml -o out/
    python -m sweep report clusters/local.yaml --compare ganomaly "ganomaly untrained"
    python -m sweep report clusters/local.yaml --bundle results.zip
    """
    opened = _open(config, assignments, as_launched=True, everything=everything)
    found, words = _reporting(opened, selection, evaluation, metric), opened.command("report")
    written: list[Path] = []
    if as_json:
        _print_json(found.records())
    elif compare is not None:
        written += found.compare(*compare, out, folder, words)
    else:
        found.show(out)
    if folder is not None and compare is None:
        written += found.write(folder, words, opened.command("trial"))
    if bundle is not None:
        packed = found.bundle(bundle, opened.sweep, opened.platform, words)
        err.print(f"packed the scores of {packed:,} trials; to check them: python -m sweep verify {bundle}")
        written.append(bundle)
    for path in written:
        err.print(f"wrote {path}", markup=False, soft_wrap=True)


@app.command()
def verify(
    file: Annotated[Path, typer.Argument(help="Bundle that `report --bundle` wrote.", metavar="FILE")],
    rerun: Annotated[int, typer.Option(min=0, help="Retrain so many random trials here, too.")] = 0,
    data: Annotated[Path | None, typer.Option(help="Folder of downloaded datasets, to retrain.")] = None,
    seed: Annotated[int, typer.Option(help="Draws the trials that are retrained.")] = 0,
) -> None:
    """Recompute every cell of a bundle from its per-sample scores, and name each difference.

    Needs neither the store nor torch.  A retrained trial should land in the 95 % interval for one more
    seed of its cell; one in twenty may miss it honestly.

    \b
    python -m sweep verify results.zip
    python -m sweep verify results.zip --rerun 3 --data FOLDER

    Exit code 1 if anything differs, or a retrained trial lands outside.
    """
    from sweep.reporting import verify as recompute

    found, holds = recompute(file, out)
    if rerun:
        from sweep.rerun import rerun as retrain

        for again in retrain(found, rerun, seed, data, out):
            holds = holds and again.inside
            out.print(again.text(), style="" if again.inside else "red", markup=False, soft_wrap=True)
    if not holds:
        raise typer.Exit(1)


@app.command()
def trial(
    config: Config,
    key: Annotated[str, typer.Argument(help="Key of a trial, or the first digits of it.")],
    assignments: Set = [],  # noqa: B006
    log: Annotated[bool, typer.Option("--log", help="Show what its attempts left, run nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Run or show one trial, in this process.

    Here `breakpoint()` works.  A trial with a result is shown, not run; --log shows what went wrong.
    """
    from sweep.single import find, run, story

    opened = _open(config, assignments, as_launched=True)
    planned = find(opened.survey(), key)
    if log:
        out.print(story(opened.ledger, planned), markup=False)
        return
    result = run(opened.sweep, opened.store, opened.ledger, planned, err)
    if as_json:
        _print_json(result)
    else:
        out.print(story(opened.ledger, planned), markup=False)


@app.command()
def score(
    storage: Annotated[str, typer.Argument(help="Results: FOLDER or s3://BUCKET/PREFIX.", metavar="STORE")],
    key: Annotated[str, typer.Argument(help="Key of a trial, the first digits of it, or best.", metavar="KEY")],
    images: Annotated[Path, typer.Argument(help="Images, also in folders of it.", metavar="FOLDER")],
    name: Annotated[str | None, typer.Option("--sweep", help="One of the store's sweeps; none: launched last.")] = None,
    folder: Annotated[Path, typer.Option("--out", "-o", help="Where scores and image sheet go.")] = Path("scores"),
    on_bad: Annotated[str, typer.Option(help="Images that cannot be read: fail, or skip.")] = "fail",
    as_json: Json = False,
) -> None:
    """Score new images with a trained detector.

    They are prepared as those that it was trained on.  Writes scores.csv, the most anomalous first, and a
    sheet of these, with what the detector makes of them where it reconstructs.  `best` is the detector of the
    highest validation AUROC among those with kept weights; without validation, of the highest test AUROC, clean.

    \b
    python -m sweep score results best FOLDER
    python -m sweep score s3://bucket/prefix 3f2a FOLDER -o out/ --on-bad skip
    """
    from sweep.score import score as score_images

    found = score_images(storage, key, images, folder, sweep=name, on_bad=on_bad, console=err)
    if as_json:
        _print_json(found.to_json())
    else:
        out.print(found.text(), markup=False, soft_wrap=True)


@app.command()
def schema() -> None:
    """Print every key of the YAML.

    With default and one line of help each: sections, studies, and the hyperparameters of every detector.
    """
    from sweep.schema import text

    out.print(text(), markup=False, soft_wrap=True)


@data_app.command("put")
def data_put(
    name: Annotated[str, typer.Argument(help="Dataset, e.g. mnist; see `data list`.")],
    config: Config,
    assignments: Set = [],  # noqa: B006
) -> None:
    """Prepare a dataset from its source and store it; again: mend what is damaged."""
    from sweep.datasets import put

    put(_load(config, assignments), name, out)


@data_app.command("verify")
def data_verify(
    names: Annotated[list[str], typer.Argument(metavar="NAME", help="Datasets; none: all of the store.")] = [],  # noqa: B006
    *,
    config: Config,
    assignments: Set = [],  # noqa: B006
    repair: Annotated[bool, typer.Option("--repair", help="Make damaged shards again from the source.")] = False,
) -> None:
    """Check every byte of stored datasets; exit code 1 if any is damaged."""
    from sweep.datasets import verify

    if not verify(_load(config, assignments), names, out, repair):
        raise typer.Exit(1)


@data_app.command("list")
def data_list(config: Config, assignments: Set = [], as_json: Json = False) -> None:  # noqa: B006
    """List the datasets that exist, and those that the store holds."""
    from sweep.datasets import listing, table

    found = listing(_load(config, assignments))
    if as_json:
        _print_json(found)
    else:
        out.print(table(found))


def main() -> None:
    """Run a verb; a fault of the user's is a message and exit code 1, never a traceback."""
    from data.faults import DataError
    from sweep.faults import UserError
    from sweep.store import StoreError

    try:
        app(prog_name="python -m sweep")
    except UserError as error:
        if error.heading:
            err.print(error.heading, style="bold red")
        for fault in error.faults:
            err.print(f"error: {fault}", style="red", markup=False, soft_wrap=True)
        sys.exit(1)
    except (StoreError, DataError) as error:
        err.print(f"error: {error}", style="red", markup=False, soft_wrap=True)
        sys.exit(1)
    except BrokenPipeError:
        sys.exit(0)  # the reader of our output, such as head, has seen enough


def _open(config: Path, assignments: list[str], *, as_launched: bool = False, everything: bool = False) -> Opened:
    from sweep.opened import Opened

    return Opened(config, assignments, as_launched=as_launched, everything=everything)


def _load(config: Path, assignments: list[str]) -> Sweep:
    from sweep.spec import load

    return load(config, assignments)


def _reporting(opened: Opened, selection: str = "last", evaluation: str = "clean", metric: str = "auroc") -> Reporting:
    from sweep.reporting import Reporting

    return Reporting(opened.survey(), opened.ledger, selection, evaluation, metric, opened.usd_per_hour)


def _print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=2, default=str) + "\n")


def _user_error(*faults: str) -> Exception:
    from sweep.faults import UserError

    return UserError(faults)
