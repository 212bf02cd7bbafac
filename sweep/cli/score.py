"""Implementation of `score`: score new images with a trained detector."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import Progress

from data.sources.base import Skipped
from data.storage.new_images import list_images, refuse_bad
from models.scoring import combine
from sweep.errors import UserError, unknown
from sweep.files import write_atomically
from sweep.report.files import escape_csv_name
from sweep.report.report import explain_write_errors
from sweep.results import open_results

if TYPE_CHECKING:
    from sweep.trial.trained import TrainedDetector

ON_BAD = ("fail", "skip")
SHEET = 16  # images on the figure
PRINTED = 10  # images in the terminal output


@dataclass(frozen=True, eq=False)
class Scored:
    """Scored images, the most anomalous first; images with equal scores are sorted by name.

    Attributes:
        trained: detector that scored them.
        chosen: how the detector was chosen; "" if its key was given.
        files: paths relative to the folder, [N].
        scores: float64 [N].
        components: components of the score, each float32 [N].
        skipped: images that could not be read.
        wrote: paths of the files that were written.
    """

    trained: TrainedDetector
    chosen: str
    files: tuple[str, ...]
    scores: npt.NDArray[np.float64]
    components: dict[str, npt.NDArray[np.float32]]
    skipped: tuple[Skipped, ...]
    wrote: tuple[Path, ...] = ()

    def csv(self) -> str:
        """Return scores.csv: file, score, components, problem.  A skipped image has a problem and no numbers.

        A name that a spreadsheet would read as a formula gets an apostrophe in front.
        """
        columns: list[npt.NDArray[Any]] = [self.scores, *self.components.values()]
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["file", "score", *self.components, "problem"])
        for rank, file in enumerate(self.files):
            numbers = [repr(float(values[rank])) for values in columns]
            writer.writerow([escape_csv_name(file), *numbers, ""])
        for file, reason in self.skipped:
            writer.writerow([escape_csv_name(file), *[""] * (1 + len(self.components)), escape_csv_name(reason)])
        return text.getvalue()

    def to_json(self) -> dict[str, Any]:
        """Return what `--json` prints."""
        spec = self.trained.spec
        columns: dict[str, npt.NDArray[Any]] = {"score": self.scores, **self.components}
        return {
            **{name: getattr(spec, name) for name in ("key", "detector", "variant", "dataset", "protocol", "abnormal")},
            "seed": spec.seed,
            "lam": self.trained.lam,
            "chosen": self.chosen,
            "images": [
                {"file": file, **{name: float(values[rank]) for name, values in columns.items()}}
                for rank, file in enumerate(self.files)
            ],
            "skipped": [bad._asdict() for bad in self.skipped],
            "wrote": [str(path) for path in self.wrote],
        }

    def text(self) -> str:
        """Return the lines for the terminal."""
        lines = [f"{len(self.files):,} images scored by {describe(self.trained)}"]
        lines += [f"{rank:4d}  {self.scores[rank - 1]:.6g}  {self.files[rank - 1]}"
                  for rank in range(1, min(PRINTED, len(self.files)) + 1)]  # fmt: skip
        if len(self.files) > PRINTED:
            lines.append(f"      and {len(self.files) - PRINTED:,} less anomalous ones")
        return "\n".join([*lines, *(f"wrote {path}" for path in self.wrote)])


def describe(trained: TrainedDetector) -> str:
    """Return a text that names the detector, its training data and its lambda."""
    spec = trained.spec
    lam = "" if trained.lam is None else f", lambda {trained.lam:g}"
    return (
        f"{spec.detector} {spec.variant} (trial {spec.key}), trained on {spec.dataset} {spec.protocol} without "
        f"{spec.abnormal}, seed {spec.seed}{lam}"
    )


def score(
    storage: str, key: str, folder: Path, out: Path, *, sweep: str | None, on_bad: str, console: Console
) -> Scored:
    """Score a folder of images, and write scores.csv, most_anomalous.svg and most_anomalous.pdf.

    Args:
        storage: address of the store.
        key: key of a trial, its first digits, or "best".
        folder: folder of the images.
        out: folder for the files that are written.
        sweep: id of the sweep; None for the sweep of the latest launch.
        on_bad: "fail", or "skip" to leave out images that cannot be read.
        console: for progress and notes to the user.

    Raises:
        UserError: no such trial, no weights, or the files cannot be written.
        DataError: no such folder, no image in it, or images that cannot be read; the message lists all of them.
    """
    if on_bad not in ON_BAD:
        raise UserError(unknown("value of --on-bad", on_bad, ON_BAD))
    files = list_images(folder)
    with explain_write_errors(out):
        out.mkdir(parents=True, exist_ok=True)
    results = open_results(storage, sweep)
    best = results.best() if key == "best" else None
    chosen = "" if best is None else f"best of sweep {results.sweep}: {best.text()}"
    if best is not None:
        console.print(f"{best.key} is {chosen}", markup=False, soft_wrap=True)
    trained = results.detector(key if best is None else best.key)
    if "window" in trained.manifest.parameters:
        note = f"{trained.spec.dataset} is made of patches: these images are taken as patches, not as whole scans"
        console.print(note, style="yellow", markup=False, soft_wrap=True)
    found = _score_files(trained, chosen, folder, files, on_bad == "skip", console)
    for bad in found.skipped:
        console.print(f"skipped {bad.source}: {bad.reason}", style="yellow", markup=False, soft_wrap=True)
    with explain_write_errors(out):
        wrote = (write_atomically(out / "scores.csv", found.csv().encode()), *_sheet(found, folder, out))
    return Scored(**{**vars(found), "wrote": wrote})


def _score_files(
    trained: TrainedDetector, chosen: str, folder: Path, files: list[str], skip_bad: bool, console: Console
) -> Scored:
    names: list[str] = []
    skipped: list[Skipped] = []
    parts: list[dict[str, npt.NDArray[np.float32]]] = []
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("scoring", total=len(files))
        for batch in trained.batches(folder, files):
            skipped += batch.skipped
            if batch.files and (skip_bad or not skipped):  # once one is bad, read on only to list all bad ones
                names += batch.files
                parts.append(trained.components(batch.images))
            bar.advance(task, len(batch.files) + len(batch.skipped))
    if skipped and not (skip_bad and names):
        refuse_bad(folder, len(files) - len(skipped), skipped)
    components = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    scores = combine(components, trained.lam)
    order = np.lexsort((np.array(names), -scores))
    raw = {name: values[order] for name, values in components.items() if name != "score"}
    return Scored(trained, chosen, tuple(names[n] for n in order), scores[order], raw, tuple(skipped))


def _sheet(found: Scored, folder: Path, out: Path) -> tuple[Path, Path]:
    """Read the most anomalous images again, and write the figure that shows them."""
    from sweep.report.figures.anomalous import most_anomalous  # matplotlib: half a second
    from sweep.report.figures.style import use_style

    files = found.files[:SHEET]
    images = np.concatenate([batch.images for batch in found.trained.batches(folder, list(files))])
    if len(images) != len(files):
        raise UserError(f"{folder} was changed while it was scored: run the same command again")
    with use_style():
        drawing = most_anomalous(
            files, found.scores, images, found.trained.reconstruct(images), describe(found.trained), len(found.files)
        )
    stem = out / drawing.name
    return write_atomically(stem.with_suffix(".svg"), drawing.svg), write_atomically(
        stem.with_suffix(".pdf"), drawing.pdf
    )
