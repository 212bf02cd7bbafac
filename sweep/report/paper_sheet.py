"""Sheet that compares a board with values printed in papers, and explains why the experiments differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from models.catalog import DETECTORS
from sweep.leaderboard import papers
from sweep.leaderboard.board import Board, Leaderboard
from sweep.leaderboard.entry import METRICS, Entry
from sweep.report.sheet import CLASS_GROUP, CLASS_MEAN, Sheet, SheetCell, board_title, decimal, line_label, value_text


def paper_sheet(leaderboard: Leaderboard, board: Board, other: Leaderboard | None, others: Board | None) -> Sheet:
    """Build the sheet: for each line and paper, the printed values, our values and the differences.

    Args:
        leaderboard: leaderboard that is shown.
        board: one of its boards; at least one of its cells has a printed value.
        other: the same rows by the other metric that a printed value may be; None without one.
        others: the same board of `other`.
    """
    ways = [(leaderboard.metric, {line.name: line for line in board.lines})]
    if other is not None and others is not None:
        ways.append((other.metric, {line.name: line for line in others.lines}))
    sections, captions = [], []
    for line in board.lines:
        shown = [abnormal for abnormal, cell in line.cells.items() if cell.paper is not None]
        tables = {
            source: printed.protocol
            for abnormal in shown
            for source, printed in _printings(line, board, abnormal, leaderboard.metric).items()
        }
        for source, protocol in tables.items():
            title = papers.SOURCES[source].title
            metrics = papers.metrics_of(line.detector, board.dataset, source)
            printed_values = {
                c: f[source].value for c in board.classes if source in (f := _printings(line, board, c, metrics[0]))
            }
            rows = [("paper", _cells(printed_values, board.classes, ".3f"))]
            for metric, lines in ways:
                if metric not in metrics:
                    continue
                cells = lines[line.name].cells
                ours = {c: cells[c].mean for c in printed_values if c in cells and cells[c].mean is not None}
                gaps = {c: value - printed_values[c] for c, value in ours.items() if value is not None}
                rows.append((f"ours, {METRICS[metric]}", _cells(ours, board.classes, ".3f")))
                rows.append(("difference", _cells(gaps, board.classes, "+.3f")))
            label = line_label(line, board.lines)
            sections.append((f"{label}: {title}", tuple(rows)))
            reasons = papers.differences(
                source,
                line.detector,
                protocol,
                protocol=board.protocol,
                selection=leaderboard.selection,
                evaluation=leaderboard.evaluation,
                changed=changed_hyperparameters(line),
            )
            captions.append(f"{label}, {title}: not the same experiment.  {'; '.join(reasons)}.")
    title = f"{board_title(leaderboard, board)}, compared with papers"
    return Sheet(
        title, "source", (CLASS_MEAN, *board.classes), tuple(sections), tuple(captions), lead=1, group=CLASS_GROUP
    )


def changed_hyperparameters(line: Entry) -> str:
    """List the hyperparameters of a line that differ from its variant's defaults, e.g. "nz=32 instead of 100"."""
    info = DETECTORS.get(line.detector)
    if info is None or line.variant not in info.variants:
        return ""
    pairs = [(name, value, info.default(line.variant, name)) for name, value in line.hyperparameters.items()]
    texts = [(name, value_text(value), value_text(usual)) for name, value, usual in pairs if None not in (value, usual)]
    return ", ".join(f"{name}={ours} instead of {usual}" for name, ours, usual in texts if ours != usual)


def _printings(line: Entry, board: Board, abnormal: str, metric: str) -> dict[str, papers.Printed]:
    return papers.printings(line.detector, board.dataset, abnormal, metric)


def _cells(values: Mapping[str, float | None], classes: Sequence[str], form: str) -> tuple[SheetCell, ...]:
    """Return the mean and then the value of each class; "-" for the mean unless every class has a value."""
    known = [value for value in values.values() if value is not None]
    mean = sum(known) / len(known) if len(known) == len(classes) else None
    return tuple(SheetCell(decimal(value, form)) for value in (mean, *(values.get(c) for c in classes)))
