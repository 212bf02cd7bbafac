"""The verbs report and verify: what they read, show and write."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from sweep.errors import UserError, unknown
from sweep.leaderboard.audit import audits
from sweep.leaderboard.board import METRICS, Build, builder
from sweep.leaderboard.rows import Row, provenance, rows, scores
from sweep.leaderboard.runtime import Runtime, read_runtimes
from sweep.plan.status import SweepStatus
from sweep.report.files import all_leaderboards, companion, publish, write, write_sheets
from sweep.report.terminal import terminal
from sweep.spec.trial import EVALUATIONS, SELECTIONS
from sweep.store.base import ObjectNotFound
from sweep.store.ledger import Ledger

if TYPE_CHECKING:
    from sweep.plan.platform import Platform
    from sweep.report.bundle import Bundle
    from sweep.spec.sweep import Sweep


class Reporting:
    """Rows of a sweep, shown and written one way.

    Args:
        survey, ledger: of the sweep.
        selection, evaluation, metric: what is shown.
        usd_per_hour: price of what one trial occupies.

    Raises:
        UserError: selection, evaluation or metric is none that there is.
    """

    def __init__(
        self,
        status: SweepStatus,
        ledger: Ledger,
        selection: str = "last",
        evaluation: str = "clean",
        metric: str = "auroc",
        usd_per_hour: float | None = None,
    ) -> None:
        problems = [unknown("selection", selection, SELECTIONS)] if selection not in SELECTIONS else []
        problems += [unknown("evaluation", evaluation, EVALUATIONS)] if evaluation not in EVALUATIONS else []
        problems += [unknown("metric", metric, METRICS)] if metric not in METRICS else []
        if problems:
            raise UserError(problems)
        self._survey, self._ledger = status, ledger
        self._way = (selection, evaluation, metric)
        self.rows: list[Row] = rows(status, ledger, usd_per_hour)
        self.timed: list[Runtime] = read_runtimes(status, ledger)
        self._built: Build = builder(self.rows)

    def show(self, console: Console) -> None:
        """Print the boards."""
        shown = self._built(*self._way)
        audited = audits(self.rows, self._way[2], built=self._built)
        console.print(terminal(shown, console.width, audited, companion(self._built, shown), self.timed))

    def records(self) -> list[dict[str, object]]:
        """Rows, then runtimes, whose kind is "runtime"."""
        return [*self.rows, *({"kind": "runtime", **asdict(runtime)} for runtime in self.timed)]

    def write(self, folder: Path, command: str, trial_command: str) -> list[Path]:
        """Write every file of a report; `trial_command` shows a trial, its key following."""
        selection, evaluation, metric = self._way
        said = provenance(self._ledger, command)
        with writing(folder):
            written = write(
                self.rows,
                folder,
                selection=selection,
                evaluation=evaluation,
                metric=metric,
                provenance=said,
                built=self._built,
                timed=self.timed,
            )
            return [*written, self._write_page(folder, said, trial_command)]

    def _write_page(self, folder: Path, said: dict[str, object], trial_command: str) -> Path:
        """Write report.html, and each figure as SVG and PDF into figures/."""
        from sweep.report.figures import draw  # matplotlib: 0.4 s, which no other verb needs
        from sweep.report.html.page import page

        leaderboard = self._built(*self._way)
        drawings = list(draw(leaderboard, self.rows, self._survey.searches, self._read))
        figures = folder / "figures"
        figures.mkdir(exist_ok=True)
        for drawing in drawings:
            publish(figures / f"{drawing.name}.svg", drawing.svg)
            publish(figures / f"{drawing.name}.pdf", drawing.pdf)
        launches = self._ledger.specs()
        text = page(
            self.rows,
            leaderboard,
            drawings,
            provenance=said,
            spec=launches[-1] if launches else None,
            trial_command=trial_command,
            built=self._built,
            timed=self.timed,
        )
        return publish(folder / "report.html", text.encode())

    def _read(self, path: str) -> bytes | None:
        try:
            return self._ledger.store.get(path)
        except ObjectNotFound:
            return None

    def compare(self, first: str, second: str, console: Console, folder: Path | None, command: str) -> list[Path]:
        """Print two detectors side by side, cell by cell; with a folder write comparison.{md,tex}, too.

        Raises:
            UserError: a name means nothing or several things.
        """
        from sweep.leaderboard.comparison import compare
        from sweep.report.sheets import sheet
        from sweep.report.terminal import render

        selection, evaluation, _ = self._way
        found = compare(
            self.rows, first, second, lambda key: scores(self._ledger, key), selection=selection, evaluation=evaluation
        )
        made = [sheet(comparison, f"{selection} epoch, {evaluation}") for comparison in found]
        console.print(render(made, console.width))
        if folder is None:
            return []
        with writing(folder):
            return write_sheets(made, folder, "comparison", provenance(self._ledger, command))

    def bundle(self, path: Path, sweep: Sweep, platform: Platform, command: str) -> int:
        """Pack rows, per-sample scores, results and spec into one zip; returns how many trials have scores.

        Raises:
            UserError: of runtime studies alone, whose times nobody can recompute.
        """
        from sweep.report.bundle import pack
        from sweep.report.files import csv_text

        if self.timed and not self.rows:
            raise UserError("a bundle packs scores, to be recomputed, and a runtime study has none; use -o FOLDER")
        results = self._ledger.results({row["key"] for row in self.rows})
        paths = [f"trials/{key}/scores.parquet" for key, found in sorted(results.items()) if found["status"] == "ok"]
        with writing(path):
            return pack(
                path,
                self.rows,
                csv=csv_text(all_leaderboards(self.rows, self._built)),
                results=results,
                scores=((name.split("/")[1], data) for name, data in self._ledger.store.get_many(paths)),
                spec={"sweep": sweep.model_dump(mode="json"), "platform": asdict(platform)},
                provenance=provenance(self._ledger, command),
            )


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """What cannot be written is told with the fix."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; name a place that you may write to") from None


def verify(path: Path, console: Console) -> tuple[Bundle, bool]:
    """Recompute a bundle and print what differs; returns it, and whether all is as its scores say.

    Raises:
        UserError: it is no bundle, or one that must not be unpacked.
    """
    from sweep.report.bundle import Bundle
    from sweep.report.verify import verify as recompute

    bundle = Bundle(path)
    found = recompute(bundle)
    for difference in found.differences:
        console.print(_plain(difference), style="red", markup=False, soft_wrap=True)
    verdict = "all as the scores say" if not found.differences else f"{len(found.differences)} differences"
    counts = f"{found.trials:,} trials, {found.rows:,} rows, {found.cells:,} cells recomputed"
    console.print(f"{counts}: {verdict}", style="bold", markup=False)
    for note in found.notes:
        console.print(_plain(note), style="dim", markup=False)
    return bundle, not found.differences


def _plain(text: str) -> str:
    return "".join(character if character.isprintable() else " " for character in text)
