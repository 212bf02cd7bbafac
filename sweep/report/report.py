"""The commands `report` and `verify`: reading a sweep's results, showing them, and writing the files of a report."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from sweep.console import printable
from sweep.errors import UserError, unknown
from sweep.files import write_atomically
from sweep.leaderboard.audit import audits
from sweep.leaderboard.board import Build, Leaderboard, builder
from sweep.leaderboard.entry import METRICS
from sweep.leaderboard.rows import Row, parse_scores, provenance, rows, scores
from sweep.leaderboard.runtime import Runtime, read_runtimes
from sweep.plan.status import SweepStatus
from sweep.report.files import all_leaderboards, companion, show_beside, write, write_sheets
from sweep.report.terminal import render_terminal
from sweep.spec.trial import EVALUATIONS, SELECTIONS
from sweep.store.base import ObjectNotFound
from sweep.store.ledger import SCORES, Damaged, Ledger

if TYPE_CHECKING:
    import pyarrow as pa

    from sweep.plan.platform import Platform
    from sweep.report.bundle import Bundle
    from sweep.spec.sweep import Sweep


class Report:
    """Rows of a sweep, shown and written for one selection, evaluation and metric.

    Args:
        status: status of the sweep.
        ledger: ledger of the sweep.
        selection: "last", "val" or "oracle".
        evaluation: "clean", "legacy_ordered" or "legacy_shuffled".
        metric: "auroc", "ap" or "fpr95"; or several, as "auroc,ap": ranked by the first, the others beside.
        usd_per_hour: price in dollars of the resources of one trial; None if it is not known.

    Attributes:
        rows: rows of `sweep.leaderboard.rows.build_rows`.
        timed: runtimes of the sweep's runtime studies.
        damaged: what is wrong with each damaged result, and the fix, by key.

    Raises:
        UserError: unknown selection, evaluation or metric.
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
        metrics = tuple(dict.fromkeys(name.strip() for name in metric.split(",")))
        problems += [unknown("metric", name, METRICS) for name in metrics if name not in METRICS]
        if problems:
            raise UserError(problems)
        self._status, self._ledger = status, ledger
        self._choice, self._beside = (selection, evaluation, metrics[0]), metrics[1:]
        self.damaged: dict[str, Damaged] = dict(status.damaged)
        self.rows: list[Row] = rows(status, ledger, usd_per_hour, self.damaged)
        self.timed: list[Runtime] = read_runtimes(status, ledger, self.damaged)
        self._built: Build = builder(self.rows, scores=self._tables)

    def show(self, console: Console) -> None:
        """Print the boards."""
        shown = self._shown()
        audited = audits(self.rows, self._choice[2], built=self._built)
        console.print(render_terminal(shown, console.width, audited, companion(self._built, shown), self.timed))

    def _shown(self) -> Leaderboard:
        return show_beside(self._built, self._built(*self._choice), self._beside)

    def records(self) -> list[dict[str, object]]:
        """Return the rows, then the runtimes with kind "runtime", for JSON output."""
        return [*self.rows, *({"kind": "runtime", **asdict(runtime)} for runtime in self.timed)]

    def write(self, folder: Path, command: str, trial_command: str) -> list[Path]:
        """Write every file of a report and return the paths.

        Args:
            folder: folder of the files, created if necessary.
            command: command that made this report, for its provenance.
            trial_command: command that shows a trial when the trial's key is appended.

        Raises:
            UserError: a file cannot be written.
        """
        selection, evaluation, metric = self._choice
        origin = provenance(self._ledger, command)
        with explain_write_errors(folder):
            written = write(
                self.rows,
                folder,
                selection=selection,
                evaluation=evaluation,
                metric=metric,
                beside=self._beside,
                provenance=origin,
                built=self._built,
                timed=self.timed,
            )
            return [*written, self._write_page(folder, origin, trial_command)]

    def _write_page(self, folder: Path, origin: dict[str, object], trial_command: str) -> Path:
        """Write report.html, and each figure as SVG and PDF into figures/."""
        from sweep.report.figures import draw  # imports matplotlib (0.4 s), which no other command needs
        from sweep.report.html.page import render_page

        leaderboard = self._shown()
        drawings = list(draw(leaderboard, self.rows, self._status.searches, self._read))
        figures = folder / "figures"
        figures.mkdir(exist_ok=True)
        for drawing in drawings:
            write_atomically(figures / f"{drawing.name}.svg", drawing.svg)
            write_atomically(figures / f"{drawing.name}.pdf", drawing.pdf)
        launch = self._ledger.last_spec()
        text = render_page(
            self.rows,
            leaderboard,
            drawings,
            provenance=origin,
            spec=None if launch is None else launch[1],
            trial_command=trial_command,
            built=self._built,
            timed=self.timed,
        )
        return write_atomically(folder / "report.html", text.encode())

    def _tables(self, keys: Iterable[str]) -> Iterator[tuple[str, pa.Table]]:
        """Yield per-sample scores of trials by key, without those that are damaged or missing."""
        left = list(keys)
        while left:
            try:
                for key, data in self._ledger.files(tuple(left), SCORES):
                    table = parse_scores(key, data)
                    left.remove(key)
                    yield key, table
            except Damaged as error:
                self.damaged.setdefault(left.pop(0), error)
            except ObjectNotFound:  # an older version stored the result and no scores
                left.pop(0)

    def _read(self, path: str) -> bytes | None:
        _, key, name = path.split("/")
        try:
            return self._ledger.file(key, name)
        except Damaged as error:  # the figure is drawn without this trial
            self.damaged[key] = error
        except ObjectNotFound:
            pass
        return None

    def compare(self, first: str, second: str, console: Console, folder: Path | None, command: str) -> list[Path]:
        """Print the comparison of two detectors, cell by cell; with a folder, also write comparison.{md,tex}.

        Args:
            first, second: names as in `sweep.leaderboard.comparison.compare`.
            console: where to print.
            folder: folder for the files; None writes nothing.
            command: command that made this report, for its provenance.

        Returns:
            Paths of the files.

        Raises:
            UserError: a name matches no line or several, or a file cannot be written.
        """
        from sweep.leaderboard.comparison import compare
        from sweep.report.sheets import comparison_sheet
        from sweep.report.terminal import render

        selection, evaluation, _ = self._choice
        comparisons = compare(
            self.rows, first, second, lambda key: scores(self._ledger, key), selection=selection, evaluation=evaluation
        )
        tables = [comparison_sheet(comparison, f"{selection} epoch, {evaluation}") for comparison in comparisons]
        console.print(render(tables, console.width))
        if folder is None:
            return []
        with explain_write_errors(folder):
            return write_sheets(tables, folder, "comparison", provenance(self._ledger, command))

    def bundle(self, path: Path, sweep: Sweep, platform: Platform, command: str) -> int:
        """Pack rows, per-sample scores, results and spec into one zip; return the number of trials with scores.

        Raises:
            UserError: the sweep has only runtime studies, whose times cannot be recomputed; or the zip cannot be
                written.
            Damaged: a result or its scores are damaged or missing.
        """
        from sweep.report.bundle import pack
        from sweep.report.files import csv_text

        if self.timed and not self.rows:
            raise UserError("a bundle packs scores for recomputation, and a runtime study has none; use -o FOLDER")
        results = self._ledger.results({row["key"] for row in self.rows})
        scored = [key for key, result in sorted(results.items()) if result["status"] == "ok" and result["metrics"]]
        with explain_write_errors(path):
            return pack(
                path,
                self.rows,
                csv=csv_text(all_leaderboards(self.rows, self._built)),
                results=results,
                scores=self._scores(scored),
                spec={"sweep": sweep.model_dump(mode="json"), "platform": asdict(platform)},
                provenance=provenance(self._ledger, command),
            )

    def _scores(self, keys: Sequence[str]) -> Iterator[tuple[str, bytes]]:
        try:
            yield from self._ledger.files(keys, SCORES)
        except ObjectNotFound as error:  # an older version stored the result, without hashes
            raise Damaged(f"{error}, which belongs to a result; delete its trial there and launch again") from None


@contextmanager
def explain_write_errors(path: Path) -> Iterator[None]:
    """Turn an error of writing `path` into a UserError with a fix."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; name a path that you may write to") from None


def verify(path: Path, console: Console) -> tuple[Bundle, bool]:
    """Recompute a bundle and print all differences.

    Returns:
        The bundle, and True if everything in it agrees with its scores.

    Raises:
        UserError: the file is not a bundle, or it is unsafe to unpack.
    """
    from sweep.report.bundle import Bundle
    from sweep.report.verify import verify as recompute

    bundle = Bundle(path)
    verified = recompute(bundle)
    for difference in verified.differences:
        console.print(printable(difference), style="red", markup=False, soft_wrap=True)
    verdict = "all agree with the scores" if not verified.differences else f"{len(verified.differences)} differences"
    counts = f"{verified.trials:,} trials, {verified.rows:,} rows, {verified.cells:,} cells recomputed"
    console.print(f"{counts}: {verdict}", style="bold", markup=False)
    for note in verified.notes:
        console.print(printable(note), style="dim", markup=False)
    return bundle, not verified.differences
