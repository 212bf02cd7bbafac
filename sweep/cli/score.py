"""The verb score: new images through a trained detector."""

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
from sweep.report.files import harmless, publish
from sweep.report.report import writing
from sweep.results import open_results

if TYPE_CHECKING:
    from sweep.trial.trained import TrainedDetector

ON_BAD = ("fail", "skip")
SHEET = 16  # images on it
PRINTED = 10


@dataclass(frozen=True, eq=False)
class Scored:
    """Scored images, the most anomalous first; of equal scores by name.

    Attributes:
        trained: what scored them.
        chosen: how it was chosen; "" where it was named.
        files: paths below the folder, [N].
        scores: float64 [N].
        components: float32 [N] each.
        skipped: what could not be read.
        wrote: files.
    """

    trained: TrainedDetector
    chosen: str
    files: tuple[str, ...]
    scores: npt.NDArray[np.float64]
    components: dict[str, npt.NDArray[np.float32]]
    skipped: tuple[Skipped, ...]
    wrote: tuple[Path, ...] = ()

    def csv(self) -> str:
        """scores.csv: file, score, components; what was skipped has a problem in place of numbers.

        Names that a spreadsheet would take for a formula begin with an apostrophe.
        """
        columns: list[npt.NDArray[Any]] = [self.scores, *self.components.values()]
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["file", "score", *self.components, "problem"])
        for place, file in enumerate(self.files):
            numbers = [repr(float(values[place])) for values in columns]
            writer.writerow([harmless(file), *numbers, ""])
        for file, reason in self.skipped:
            writer.writerow([harmless(file), *[""] * (1 + len(self.components)), harmless(reason)])
        return text.getvalue()

    def to_json(self) -> dict[str, Any]:
        """What `--json` prints."""
        spec = self.trained.spec
        columns: dict[str, npt.NDArray[Any]] = {"score": self.scores, **self.components}
        return {
            **{name: getattr(spec, name) for name in ("key", "detector", "variant", "dataset", "protocol", "abnormal")},
            "seed": spec.seed,
            "lam": self.trained.lam,
            "chosen": self.chosen,
            "images": [
                {"file": file, **{name: float(values[place]) for name, values in columns.items()}}
                for place, file in enumerate(self.files)
            ],
            "skipped": [bad._asdict() for bad in self.skipped],
            "wrote": [str(path) for path in self.wrote],
        }

    def text(self) -> str:
        """For a person."""
        lines = [f"{len(self.files):,} images scored by {describe(self.trained)}"]
        lines += [f"{place:4d}  {self.scores[place - 1]:.6g}  {self.files[place - 1]}"
                  for place in range(1, min(PRINTED, len(self.files)) + 1)]  # fmt: skip
        if len(self.files) > PRINTED:
            lines.append(f"      and {len(self.files) - PRINTED:,} less anomalous ones")
        return "\n".join([*lines, *(f"wrote {path}" for path in self.wrote)])


def describe(trained: TrainedDetector) -> str:
    """Which detector it is, what it was trained on, how it scores."""
    spec = trained.spec
    lam = "" if trained.lam is None else f", lambda {trained.lam:g}"
    return (
        f"{spec.detector} {spec.variant} (trial {spec.key}), trained on {spec.dataset} {spec.protocol} without "
        f"{spec.abnormal}, seed {spec.seed}{lam}"
    )


def score(
    storage: str, key: str, folder: Path, out: Path, *, sweep: str | None, on_bad: str, console: Console
) -> Scored:
    """Score a folder of images; writes scores.csv and most_anomalous.svg and .pdf.

    Args:
        storage: address of the store.
        key: of a trial, its first digits, or "best".
        folder: of the images.
        out: folder for what is written.
        sweep: id; None for the sweep that was launched last.
        on_bad: "fail", or "skip" what cannot be read.
        console: for progress and for what a user should know.

    Raises:
        UserError: no such trial, no weights, or nowhere to write.
        DataError: no such folder, no image in it, or images that cannot be read; lists all.
    """
    if on_bad not in ON_BAD:
        raise UserError(unknown("value of --on-bad", on_bad, ON_BAD))
    files = list_images(folder)
    with writing(out):
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
    with writing(out):
        wrote = (publish(out / "scores.csv", found.csv().encode()), *_sheet(found, folder, out))
    return Scored(**{**vars(found), "wrote": wrote})


def _score_files(
    trained: TrainedDetector, chosen: str, folder: Path, files: list[str], skip_bad: bool, console: Console
) -> Scored:
    named: list[str] = []
    skipped: list[Skipped] = []
    parts: list[dict[str, npt.NDArray[np.float32]]] = []
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("scoring", total=len(files))
        for batch in trained.batches(folder, files):
            skipped += batch.skipped
            if batch.files and (skip_bad or not skipped):  # bad ones are all to be told: reading goes on
                named += batch.files
                parts.append(trained.components(batch.images))
            bar.advance(task, len(batch.files) + len(batch.skipped))
    if skipped and not (skip_bad and named):
        refuse_bad(folder, len(files) - len(skipped), skipped)
    components = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    scores = combine(components, trained.lam)
    order = np.lexsort((np.array(named), -scores))
    raw = {name: values[order] for name, values in components.items() if name != "score"}
    return Scored(trained, chosen, tuple(named[n] for n in order), scores[order], raw, tuple(skipped))


def _sheet(found: Scored, folder: Path, out: Path) -> tuple[Path, Path]:
    """The most anomalous images, read again."""
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
    return publish(stem.with_suffix(".svg"), drawing.svg), publish(stem.with_suffix(".pdf"), drawing.pdf)
