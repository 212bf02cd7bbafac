"""Verbs that look at results: report, verify, trial, score, schema."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from sweep.cli.options import All, Config, Json, Set, err, out, print_json


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
    from sweep.cli.session import Session
    from sweep.errors import UserError

    session = Session(config, assignments, as_launched=True, everything=everything)
    found, words = session.reporting(selection, evaluation, metric), session.command("report")
    written: list[Path] = []
    if note := session.never_launched():
        err.print(note, style="yellow", markup=False, soft_wrap=True)
    if as_json:
        print_json(found.records())
    elif compare is not None:
        if metric != "auroc":
            raise UserError(f"--compare tests AUROC, by DeLong; leave out --metric {metric}")
        written += found.compare(*compare, out, folder, words)
    else:
        found.show(out)
    if folder is not None and compare is None:
        written += found.write(folder, words, session.command("trial"))
    if bundle is not None:
        packed = found.bundle(bundle, session.sweep, session.platform, words)
        words = shlex.join(["python", "-m", "sweep", "verify", str(bundle)])
        err.print(f"packed the scores of {packed:,} trials; to check them: {words}", markup=False, soft_wrap=True)
        written.append(bundle)
    for path in written:
        err.print(f"wrote {path}", markup=False, soft_wrap=True)


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
    from sweep.report.report import verify as recompute

    found, holds = recompute(file, out)
    if rerun:
        from sweep.launch.rerun import rerun as retrain

        for again in retrain(found, rerun, seed, data, out):
            holds = holds and again.inside
            out.print(again.text(), style="" if again.inside else "red", markup=False, soft_wrap=True)
    if not holds:
        raise typer.Exit(1)


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
    from sweep.cli.session import Session
    from sweep.launch.one_trial import find, run, story

    session = Session(config, assignments, as_launched=True)
    planned = find(session.read_status(), key)
    if log:
        out.print(story(session.ledger, planned), markup=False)
        return
    result = run(session.sweep, session.store, session.ledger, planned, err)
    if as_json:
        print_json(result)
    else:
        out.print(story(session.ledger, planned), markup=False)


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
    from sweep.cli.score import score as score_images

    found = score_images(storage, key, images, folder, sweep=name, on_bad=on_bad, console=err)
    if as_json:
        print_json(found.to_json())
    else:
        out.print(found.text(), markup=False, soft_wrap=True)


def schema() -> None:
    """Print every key of the YAML.

    With default and one line of help each: sections, studies, and the hyperparameters of every detector.
    """
    from sweep.spec.schema import text

    out.print(text(), markup=False, soft_wrap=True)
