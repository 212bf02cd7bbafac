"""Files of a report: Markdown and LaTeX for people, CSV, JSON and Parquet for programs.

Markdown, LaTeX and the terminal show the same sheets.  Names of classes, detectors and studies come from users,
so they are escaped for each format and never reach a terminal with control characters.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from models.catalog import DETECTORS
from models.info import DetectorInfo
from sweep.console import printable
from sweep.files import write_atomically
from sweep.leaderboard import papers
from sweep.leaderboard.audit import audits
from sweep.leaderboard.board import Board, Build, Leaderboard, builder
from sweep.leaderboard.entry import METRICS, Cell, Entry
from sweep.leaderboard.rows import Row, to_parquet
from sweep.leaderboard.runtime import Runtime
from sweep.report import latex, markdown
from sweep.report.paper_sheet import changed_hyperparameters
from sweep.report.sheet import Sheet
from sweep.report.sheets import sheets
from sweep.spec.trial import SELECTIONS

CSV_COLUMNS = (
    "detector", "variant", "dataset", "protocol", "abnormal", "selection", "evaluation", "metric", "mean",
    "sd", "n", "n_planned", "low", "high", "least", "most", "n_normal", "n_abnormal", "paper", "difference", "study",
    "setting", "test_half_width", "diverged", "failed", "stale", "counted", "gap", "ranked", "leader_ahead",
    "leader_ahead_low", "leader_ahead_high", "leader_ahead_p_holm", "se_seeds", "se_test_set", "classes_ahead",
    "classes_half_width", "classes_effect", "classes_p", "classes_p_holm", "classes_p_signed_rank", "parameters",
    "train_seconds", "cpu_hours", "gpu_hours", "usd", "reduced_budget", "paper_source", "paper_why_different",
)  # fmt: skip
RUNTIME_COLUMNS = (
    "detector", "variant", "dataset", "size", "batch_size", "milliseconds", "low", "high", "n", "hardware", "numerics",
    "torch", "status", "paper", "paper_source", "study", "key",
)  # fmt: skip
FORMULA = ("=", "+", "-", "@", "＝", "＋", "－", "＠")  # noqa: RUF001  (first characters of a spreadsheet's formula)
OTHER_METRIC = {"auroc": "ap", "ap": "auroc"}  # other metric that a value printed in a paper may be


def write(
    rows: Sequence[Row],
    out: Path,
    *,
    selection: str = "last",
    evaluation: str = "clean",
    metric: str = "auroc",
    beside: Sequence[str] = (),
    provenance: Mapping[str, object] | None = None,
    catalog: Mapping[str, DetectorInfo] = DETECTORS,
    built: Build | None = None,
    timed: Sequence[Runtime] = (),
) -> list[Path]:
    """Write leaderboard.{csv,json,md,tex}, results.parquet and, for runtime studies, runtime.csv.

    Each file is written completely or not at all.

    Args:
        rows: rows of `sweep.leaderboard.rows.build_rows`.
        out: folder of the files, created if necessary.
        selection, evaluation, metric: what Markdown and LaTeX show; CSV and JSON have every combination.
        beside: further metrics, whose class means they show beside.
        provenance: printed above the tables, e.g. {"command": ..., "commit": ...}.
        catalog: see `sweep.leaderboard.board.build`.
        built: `sweep.leaderboard.board.builder` of these rows, if the caller has one already.
        timed: result of `sweep.leaderboard.runtime.runtimes`.

    Returns:
        Paths of the files.
    """
    built = built or builder(rows, catalog)
    board = show_beside(built, built(selection, evaluation, metric), beside)
    other = companion(built, board)
    audited = audits(rows, metric, catalog, built)
    contents = {
        "leaderboard.csv": csv_text(all_leaderboards(rows, built)).encode(),
        "leaderboard.json": json_text(all_leaderboards(rows, built), provenance).encode(),
        "leaderboard.md": markdown.render_markdown(board, provenance, audited, other, timed).encode(),
        "leaderboard.tex": latex.render_document(sheets(board, audited, other, timed), provenance).encode(),
        "results.parquet": to_parquet(rows),
    } | ({"runtime.csv": runtime_csv(timed).encode()} if timed else {})
    out.mkdir(parents=True, exist_ok=True)
    return [write_atomically(out / name, data) for name, data in contents.items()]


def all_leaderboards(rows: Iterable[Row], built: Build) -> list[Leaderboard]:
    """Build a leaderboard for each selection and evaluation in the rows and each metric, in a fixed order."""
    present = {(row["selection"], row["evaluation"]) for row in rows}
    ordered = sorted(present, key=lambda pair: (SELECTIONS.index(pair[0]), pair[1]))
    return [built(*pair, metric) for pair in ordered for metric in METRICS]


def show_beside(built: Build, shown: Leaderboard, metrics: Sequence[str]) -> Leaderboard:
    """Return a leaderboard with the class means of further metrics beside."""
    return replace(shown, beside=tuple(built(shown.selection, shown.evaluation, metric) for metric in metrics))


def companion(built: Build, shown: Leaderboard) -> Leaderboard | None:
    """Build the leaderboard of the other metric that a value printed in a paper may be; None without one."""
    metric = OTHER_METRIC.get(shown.metric)
    return None if metric is None else built(shown.selection, shown.evaluation, metric)


def write_sheets(
    tables: Sequence[Sheet], out: Path, name: str, provenance: Mapping[str, object] | None = None
) -> list[Path]:
    """Write sheets as OUT/NAME.md and OUT/NAME.tex; return the paths."""
    out.mkdir(parents=True, exist_ok=True)
    texts = {
        "md": markdown.render_document(name.capitalize(), tables, provenance),
        "tex": latex.render_document(tables, provenance),
    }
    return [write_atomically(out / f"{name}.{ending}", text.encode()) for ending, text in texts.items()]


def csv_text(leaderboards: Iterable[Leaderboard]) -> str:
    """Return leaderboard.csv: one line for each cell of every board and grid.

    `abnormal` is "mean" for the class mean, which is empty if no seed has all classes.  A name that a spreadsheet
    would read as a formula gets an apostrophe in front; control characters in names become spaces.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for leaderboard in leaderboards:
        for board in leaderboard.boards:
            for line in (*board.lines, *(line for grid in board.grids for line in grid.lines)):
                for abnormal, cell in (*line.cells.items(), ("mean", line.mean)):
                    writer.writerow(_csv_row(leaderboard, board, line, abnormal, cell))
    return text.getvalue()


def runtime_csv(timed: Iterable[Runtime]) -> str:
    """Return runtime.csv: one line for each runtime and batch size.

    `milliseconds` is the median per image; `low` and `high` are the quartiles.  A trial without a result has one line
    without numbers.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(RUNTIME_COLUMNS)
    for r in timed:
        names = [*map(escape_csv_name, (r.detector, r.variant, r.dataset)), r.size]
        ends = [
            escape_csv_name(r.hardware),
            r.numerics,
            r.torch,
            r.status,
            r.paper,
            r.source,
            escape_csv_name(r.study),
            r.key,
        ]
        for size, times in r.times.items():
            writer.writerow([*names, size, times.median, times.low, times.high, times.n, *ends])
        if not r.times:
            writer.writerow([*names, *[None] * 5, *ends])
    return text.getvalue()


def json_text(leaderboards: Iterable[Leaderboard], provenance: Mapping[str, object] | None = None) -> str:
    """Return leaderboard.json: provenance, and each leaderboard with the fields of `sweep.leaderboard.board`.

    Names are not escaped; numbers that do not exist are null.
    """
    body = {"provenance": dict(provenance or {}), "leaderboards": [asdict(found) for found in leaderboards]}
    return json.dumps(body, indent=1, allow_nan=False, default=str) + "\n"


# -- files ------------------------------------------------------------------------------------------


def _csv_row(leaderboard: Leaderboard, board: Board, line: Entry, abnormal: str, cell: Cell) -> list[object]:
    names = [line.detector, line.variant, board.dataset, board.protocol, abnormal]
    how = [leaderboard.selection, leaderboard.evaluation, leaderboard.metric]
    numbers = [cell.mean, cell.sd, cell.n, cell.n_planned, cell.low, cell.high, cell.least, cell.most]
    numbers += [cell.n_normal, cell.n_abnormal, cell.paper, cell.difference]
    ends = [cell.test_half_width, cell.diverged, cell.failed, cell.stale, cell.counted]
    whole = _csv_of_line(line) if abnormal == "mean" else [None] * 19
    budget = papers.reduced_budget(line.detector, line.variant, board.dataset, line.hyperparameters)
    own = [escape_csv_name(line.study), escape_csv_name(line.setting)]
    return [
        *map(escape_csv_name, names),
        *how,
        *numbers,
        *own,
        *ends,
        *whole,
        budget,
        *_csv_paper(leaderboard, board, line, abnormal, cell),
    ]


def _csv_of_line(line: Entry) -> list[object]:
    ahead: list[object] = [None] * 6
    if (lead := line.behind) is not None:
        ahead = [lead.mean, lead.low, lead.high, line.p_holm, lead.seeds, lead.test]
    classes: list[object] = [None] * 6
    if (pair := line.over_classes) is not None:
        classes = [pair.mean, pair.half_width, pair.effect, pair.p, line.over_classes_holm, pair.p_signed_rank]
    return [
        line.gap,
        line.ranked,
        *ahead,
        *classes,
        line.parameters,
        line.train_seconds,
        line.cpu_hours,
        line.gpu_hours,
        line.usd,
    ]


def _csv_paper(leaderboard: Leaderboard, board: Board, line: Entry, abnormal: str, cell: Cell) -> list[object]:
    """Return source and reasons of a printed value; a class mean has those of all its classes."""
    if cell.paper is None:
        return [None, None]
    titles, reasons = list[str](), list[str]()
    for name in line.cells if abnormal == "mean" else [abnormal]:
        printed = papers.printed_value(line.detector, board.dataset, board.protocol, name, leaderboard.metric)
        if printed is not None:
            titles.append(papers.SOURCES[printed.source].title)
            reasons += papers.differences(
                printed.source,
                line.detector,
                printed.protocol,
                protocol=board.protocol,
                selection=leaderboard.selection,
                evaluation=leaderboard.evaluation,
                changed=changed_hyperparameters(line),
            )
    return ["; ".join(dict.fromkeys(texts)) for texts in (titles, reasons)]


def escape_csv_name(name: str) -> str:
    """Return a name on one line that no spreadsheet reads as a formula."""
    plain = printable(name)
    return f"'{plain}" if plain.lstrip().startswith(FORMULA) else plain
