"""Commands that read results: report, verify, trial, score, schema."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Annotated

import typer

from sweep.cli.options import All, Config, Json, Set, Yes, ask, err, out, print_json
from sweep.console import printable


def report(
    config: Config,
    assignments: Set = [],  # noqa: B006
    folder: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="Also write report.html, figures, leaderboard.{csv,json,md,tex} and results.parquet here.",
        ),
    ] = None,
    selection: Annotated[
        str,
        typer.Option(
            help="Epoch of each trial: last; val (best validation AUROC); val_normal (lowest loss of the validation "
            "normals); oracle (best on test)."
        ),
    ] = "last",
    evaluation: Annotated[
        str, typer.Option(help="How samples are scored: clean, or as published: legacy_ordered, legacy_shuffled.")
    ] = "clean",
    metric: Annotated[str, typer.Option(help="Metric: auroc, ap or fpr95; auroc,ap shows AP beside AUROC.")] = "auroc",
    compare: Annotated[
        tuple[str, str] | None,
        typer.Option(metavar="A B", help="Compare two detectors cell by cell: DeLong's test, and a test over seeds."),
    ] = None,
    bundle: Annotated[
        Path | None, typer.Option(help="Also pack rows, scores and spec into this zip file, for `verify`.")
    ] = None,
    everything: All = False,
    as_json: Json = False,
) -> None:
    """Print the leaderboard from the results in the store.

    Works at any time, also while the sweep runs: missing results are shown as missing.
    Only reads the store, and never runs a trial.

    \b
    python -m sweep report clusters/local.yaml
    python -m sweep report clusters/local.yaml -o out/
    python -m sweep report clusters/local.yaml --compare ganomaly "ganomaly untrained"
    python -m sweep report clusters/local.yaml --bundle results.zip

    Exit codes: 0 printed, 1 a problem with your input or the store.
    """
    from sweep.cli.session import Session
    from sweep.errors import UserError
    from sweep.plan.table import damage_lines

    session = Session(config, assignments, as_launched=True, everything=everything)
    found, words = session.reporting(selection, evaluation, metric), session.command("report")
    written: list[Path] = []
    if note := session.never_launched():
        err.print(note, style="yellow", markup=False, soft_wrap=True)
    if as_json:
        print_json(found.records())
    elif compare is not None:
        if metric != "auroc":
            raise UserError(f"--compare uses DeLong's test, which is for AUROC: leave out --metric {metric}")
        written += found.compare(*compare, out, folder, words)
    else:
        found.show(out)
    if folder is not None and compare is None:
        written += found.write(folder, words, session.command("trial"))
    if bundle is not None:
        packed = found.bundle(bundle, session.sweep, session.platform, words)
        words = shlex.join(["python", "-m", "sweep", "verify", str(bundle)])
        err.print(f"packed the scores of {packed:,} trials; check them with: {words}", markup=False, soft_wrap=True)
        written.append(bundle)
    for line in damage_lines(found.damaged.values()):
        err.print(line, style="red", markup=False, soft_wrap=True)
    for path in written:
        err.print(f"wrote {path}", markup=False, soft_wrap=True)


def verify(
    what: Annotated[
        str,
        typer.Argument(
            help="Zip file that `report --bundle` wrote, or a store: FOLDER or s3://BUCKET/PREFIX.",
            metavar="FILE|STORE",
        ),
    ],
    rerun: Annotated[int, typer.Option(min=0, help="Also retrain this number of random trials here.")] = 0,
    data: Annotated[Path | None, typer.Option(help="Folder of downloaded datasets, for --rerun.")] = None,
    seed: Annotated[int, typer.Option(help="Seed that chooses the trials for --rerun.")] = 0,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Recompute a report from the scores in a bundle, or check every object of a store.

    Of a bundle, every cell is computed again from the per-sample scores, and each difference is named.
    Needs neither the store nor torch, and changes nothing.

    Of a store, every record, every file of a trial and every dataset is read and compared with its hash.
    It names what is damaged, and how it is made again.  It changes nothing.

    With --rerun, random trials are also retrained on this machine.  A retrained trial should be inside the 95 %
    interval for one more seed of its cell.  One in twenty is expected to be outside by chance.
    If the bundle names detectors that are not in this package, their modules are imported; you are asked before.

    \b
    python -m sweep verify results.zip
    python -m sweep verify results.zip --rerun 3 --data FOLDER
    python -m sweep verify results
    python -m sweep verify s3://bucket/prefix --json

    Exit codes: 0 everything agrees, 1 something differs or is damaged, or a retrained trial is outside its interval.
    """
    from sweep.errors import UserError
    from sweep.report.report import verify as recompute

    if what.startswith(("s3://", "file://")) or os.path.isdir(what):
        from sweep.report.store_check import check_store

        if rerun:
            raise UserError("--rerun: only the trials of a bundle are retrained; name the zip file of one")
        checked = check_store(what, err)
        if as_json:
            print_json(checked.to_json())
        else:
            out.print(checked.text(), markup=False, soft_wrap=True)
        raise typer.Exit(bool(checked.damaged))
    if as_json:
        raise UserError("--json: only the check of a store prints JSON; name its folder or s3:// address")
    found, holds = recompute(Path(what), out)
    if rerun:
        from sweep.launch.rerun import rerun as retrain
        from sweep.report.verify import user_detectors

        imported = user_detectors(found)
        if imported and not yes:
            names = ", ".join(map(printable, imported))
            err.print(f"--rerun runs code that the bundle names: {names}", style="yellow", markup=False, soft_wrap=True)
            ask("Import these modules, and run their code?")
        for again in retrain(found, rerun, seed, data, out):
            holds = holds and again.inside
            out.print(again.text(), style="" if again.inside else "red", markup=False, soft_wrap=True)
    if not holds:
        raise typer.Exit(1)


def trial(
    config: Config,
    key: Annotated[str, typer.Argument(help="Key of a trial, or its first digits.")],
    assignments: Set = [],  # noqa: B006
    log: Annotated[bool, typer.Option("--log", help="Show the log of each attempt; run nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Run one trial in this process, or show it if it has a result.

    Ray is not used, so `breakpoint()` works.
    A trial that has a result is shown and never runs again.
    With --log nothing runs: you see each attempt, its error and its output.
    `status` prints the keys of failed trials; results.parquet of a report has all keys.

    \b
    python -m sweep trial clusters/local.yaml 3f2a
    python -m sweep trial clusters/local.yaml 3f2a --log

    Exit codes: 0 shown, 1 a problem with your input or the store.
    """
    from sweep.cli.session import Session
    from sweep.launch.one_trial import describe, find, run

    session = Session(config, assignments, as_launched=True)
    planned = find(session.read_status(), key)
    if log:
        out.print(describe(session.ledger, planned), markup=False)
        return
    result = run(session.sweep, session.store, session.ledger, planned, err)
    if as_json:
        print_json(result)
    else:
        out.print(describe(session.ledger, planned), markup=False)


def score(
    storage: Annotated[
        str, typer.Argument(help="Store with the results: FOLDER or s3://BUCKET/PREFIX.", metavar="STORE")
    ],
    key: Annotated[str, typer.Argument(help="Key of a trial, its first digits, or best.", metavar="KEY")],
    images: Annotated[Path, typer.Argument(help="Folder with images, also in its subfolders.", metavar="FOLDER")],
    name: Annotated[
        str | None, typer.Option("--sweep", help="Name of a sweep in the store; none: the latest one.")
    ] = None,
    folder: Annotated[Path, typer.Option("--out", "-o", help="Folder for the files that it writes.")] = Path("scores"),
    on_bad: Annotated[str, typer.Option(help="If images cannot be read: fail, or skip them.")] = "fail",
    as_json: Json = False,
) -> None:
    """Score new images with a trained detector.

    The images are prepared like those that the detector was trained on.
    It writes scores.csv, with the most anomalous image first, and a figure of the most anomalous images.
    The figure also shows their reconstructions, if the detector makes any.
    Your images and the store are never changed.

    `best` is the detector with the highest validation AUROC among those with kept weights.
    Without validation, it is the one with the highest test AUROC, evaluation clean.

    \b
    python -m sweep score results best FOLDER
    python -m sweep score s3://bucket/prefix 3f2a FOLDER -o out/ --on-bad skip

    Exit codes: 0 scored, 1 a problem with your input, the images or the store.
    """
    from sweep.cli.score import score as score_images

    found = score_images(storage, key, images, folder, sweep=name, on_bad=on_bad, console=err)
    if as_json:
        print_json(found.to_json())
    else:
        out.print(found.text(), markup=False, soft_wrap=True)


def schema() -> None:
    """Print every key of the YAML with its default.

    Each key has one line of help.  It covers all sections, studies, and the hyperparameters of every detector.
    Use the keys in the YAML, or with --set.

    \b
    python -m sweep schema
    python -m sweep launch clusters/local.yaml --set sweep.seeds=5

    Exit code: 0.
    """
    from sweep.spec.schema import text

    out.print(text(), markup=False, soft_wrap=True)
