"""Boards for people and for programs: terminal, Markdown, LaTeX, CSV, JSON, Parquet.

Terminal, Markdown and LaTeX show the same sheets.  Names (of classes, detectors, studies) come from users:
they are escaped for where they go, and never reach a terminal with control characters.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from models.catalog import DETECTORS, DetectorInfo
from sweep import latex, papers
from sweep.audit import Audit, audits
from sweep.entries import Sheet
from sweep.gather import Row, to_parquet
from sweep.leaderboard import METRICS, Board, Build, Cell, Leaderboard, Line, builder
from sweep.paper_sheet import changed
from sweep.runtimes import Runtime
from sweep.sheets import sheets
from sweep.trialspec import SELECTIONS

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

CSV_COLUMNS = (
    "detector", "variant", "dataset", "protocol", "abnormal", "selection", "evaluation", "metric", "mean",
    "sd", "n", "n_planned", "ci_low", "ci_high", "paper", "difference", "study", "setting",
    "test_half_width", "diverged", "failed", "stale", "counted", "gap", "behind", "behind_half_width",
    "effect", "p", "p_holm", "p_signed_rank", "parameters", "train_seconds", "cpu_hours", "gpu_hours", "usd",
    "paper_source", "paper_why_different",
)  # fmt: skip
RUNTIME_COLUMNS = (
    "detector", "variant", "dataset", "size", "batch_size", "milliseconds", "low", "high", "n", "hardware", "numerics",
    "torch", "status", "paper", "paper_source", "study", "key",
)  # fmt: skip
EMPTY = "Nothing is planned that could be shown here."
LABEL_WIDTH = 34  # of the terminal's first column; longer labels are folded
HEAD_WIDTH, WORD_WIDTH = 12, 16  # of the head of a column, and of a word in it; longer ones are folded
MARKDOWN_SPECIAL = re.compile(r"[\\`*|<>\[\]&~$]|(?<![^\W_])_|_(?![^\W_])")  # inside a word _ is no emphasis
FORMULA = ("=", "+", "-", "@", "＝", "＋", "－", "＠")  # noqa: RUF001  (what spreadsheets begin one with)
BESIDE = {"auroc": "ap", "ap": "auroc"}  # what a paper's value may be instead


def write(
    rows: Sequence[Row],
    out: Path,
    *,
    selection: str = "last",
    evaluation: str = "clean",
    metric: str = "auroc",
    provenance: Mapping[str, object] | None = None,
    catalog: Mapping[str, DetectorInfo] = DETECTORS,
    built: Build | None = None,
    timed: Sequence[Runtime] = (),
) -> list[Path]:
    """Write leaderboard.{csv,json,md,tex}, results.parquet and, of runtime studies, runtime.csv.

    Each file is written whole or not at all.

    Args:
        rows: of `sweep.gather.gather`.
        out: folder, made if need be.
        selection, evaluation, metric: what Markdown and LaTeX show; CSV and JSON hold all there are.
        provenance: printed above the tables, e.g. {"command": ..., "commit": ...}.
        catalog: see `sweep.leaderboard.build`.
        built: of `sweep.leaderboard.builder` for these rows, where some are built already.
        timed: of `sweep.runtimes.runtimes`.
    """
    built = built or builder(rows, catalog)
    board = built(selection, evaluation, metric)
    other = beside(built, board)
    audited = audits(rows, metric, catalog, built)
    contents = {
        "leaderboard.csv": csv_text(every(rows, built)).encode(),
        "leaderboard.json": json_text(every(rows, built), provenance).encode(),
        "leaderboard.md": markdown(board, provenance, audited, other, timed).encode(),
        "leaderboard.tex": latex.document(sheets(board, audited, other, timed), provenance).encode(),
        "results.parquet": to_parquet(rows),
    } | ({"runtime.csv": runtime_csv(timed).encode()} if timed else {})
    out.mkdir(parents=True, exist_ok=True)
    return [publish(out / name, data) for name, data in contents.items()]


def every(rows: Iterable[Row], built: Build) -> list[Leaderboard]:
    """A leaderboard for each selection and evaluation that rows have, and each metric, in a fixed order."""
    present = {(row["selection"], row["evaluation"]) for row in rows}
    ordered = sorted(present, key=lambda pair: (SELECTIONS.index(pair[0]), pair[1]))
    return [built(*pair, metric) for pair in ordered for metric in METRICS]


def beside(built: Build, shown: Leaderboard) -> Leaderboard | None:
    """The same rows by the metric that a paper's value may be instead."""
    metric = BESIDE.get(shown.metric)
    return None if metric is None else built(shown.selection, shown.evaluation, metric)


def write_sheets(
    tables: Sequence[Sheet], out: Path, name: str, provenance: Mapping[str, object] | None = None
) -> list[Path]:
    """Write sheets as Markdown and LaTeX."""
    out.mkdir(parents=True, exist_ok=True)
    texts = {"md": _document(name.capitalize(), tables, provenance), "tex": latex.document(tables, provenance)}
    return [publish(out / f"{name}.{ending}", text.encode()) for ending, text in texts.items()]


def terminal(
    leaderboard: Leaderboard,
    width: int = 100,
    audited: Sequence[Audit] = (),
    other: Leaderboard | None = None,
    timed: Sequence[Runtime] = (),
) -> Group:
    """The boards for a terminal `width` columns wide; wide ones go on in further blocks of columns."""
    return shown(sheets(leaderboard, audited, other, timed), width)


def shown(tables: Iterable[Sheet], width: int = 100) -> Group:
    """Sheets for a terminal."""
    from rich.console import Group
    from rich.text import Text

    parts: list[Text | Table] = []
    for sheet in tables:
        parts.append(Text(_plain(sheet.title), style="bold"))
        for block in _blocks(sheet, width):
            parts += [_table(sheet, block, width), Text("")]
        parts += [Text(_plain(caption), style="dim") for caption in sheet.captions]
        parts += [Text("")] if sheet.captions else []
    return Group(*(parts or [Text(EMPTY)]))


def markdown(
    leaderboard: Leaderboard,
    provenance: Mapping[str, object] | None = None,
    audited: Sequence[Audit] = (),
    other: Leaderboard | None = None,
    timed: Sequence[Runtime] = (),
) -> str:
    """The boards as GitHub-flavoured Markdown, headed by where they come from."""
    text = _document("Leaderboard", sheets(leaderboard, audited, other, timed), provenance)
    return text if leaderboard.boards or timed else f"{text}\n{EMPTY}\n"


def _document(title: str, tables: Iterable[Sheet], provenance: Mapping[str, object] | None) -> str:
    lines = [f"# {title}", ""]
    lines += [f"- {_escaped(name)}: {_escaped(value)}" for name, value in (provenance or {}).items()]
    lines += [""] if provenance else []
    for sheet in tables:
        lines += [f"## {_escaped(sheet.title)}", ""]
        lines.append(_markdown_row([_escaped(sheet.label), *map(_escaped, sheet.columns)]))
        lines.append(_markdown_row(["---", *["--:"] * len(sheet.columns)]))
        for heading, section in sheet.sections:
            if heading:
                lines.append(_markdown_row([f"*{_escaped(heading)}*", *[""] * len(sheet.columns)]))
            for label, entries in section:
                texts = [f"**{_escaped(e.text)}**" if e.bold else _escaped(e.text) for e in entries]
                lines.append(_markdown_row([_escaped(label), *texts]))
        lines += ["", *(f"{_escaped(caption)}  " for caption in sheet.captions), ""]
    return "\n".join(lines).rstrip() + "\n"


def csv_text(leaderboards: Iterable[Leaderboard]) -> str:
    """Every cell of every board and grid, one a line; `abnormal` is "mean" for the class mean.

    A class mean for which no seed is complete is left empty.  Names that a spreadsheet would take
    for a formula begin with an apostrophe; control characters in names are spaces.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for found in leaderboards:
        for board in found.boards:
            for line in (*board.lines, *(line for grid in board.grids for line in grid.lines)):
                for abnormal, cell in (*line.cells.items(), ("mean", line.mean)):
                    writer.writerow(_csv_row(found, board, line, abnormal, cell))
    return text.getvalue()


def runtime_csv(timed: Iterable[Runtime]) -> str:
    """One line for each runtime and batch size, `low` and `high` being quartiles.

    A trial without a result has one line without numbers.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(RUNTIME_COLUMNS)
    for r in timed:
        names = [*map(harmless, (r.detector, r.variant, r.dataset)), r.size]
        ends = [harmless(r.hardware), r.numerics, r.torch, r.status, r.paper, r.source, harmless(r.study), r.key]
        for size, times in r.times.items():
            writer.writerow([*names, size, times.median, times.low, times.high, times.n, *ends])
        if not r.times:
            writer.writerow([*names, *[None] * 5, *ends])
    return text.getvalue()


def json_text(leaderboards: Iterable[Leaderboard], provenance: Mapping[str, object] | None = None) -> str:
    """Every leaderboard as `sweep.leaderboard` has it, names as they are; numbers that are not are null."""
    body = {"provenance": dict(provenance or {}), "leaderboards": [asdict(found) for found in leaderboards]}
    return json.dumps(body, indent=1, allow_nan=False, default=str) + "\n"


# -- terminal ---------------------------------------------------------------------------------------


def _blocks(sheet: Sheet, width: int) -> list[list[int]]:
    """Columns that fit side by side beside the label: all, or else leading ones and others apart."""
    whole = _filled(sheet, range(len(sheet.columns)), width)
    if len(whole) == 1 or not sheet.lead:
        return whole
    others = _filled(sheet, range(sheet.lead, len(sheet.columns)), width)
    return _filled(sheet, range(sheet.lead), width) + others


def _filled(sheet: Sheet, columns: Iterable[int], width: int) -> list[list[int]]:
    """As many columns a block as fit, in order; one at least."""
    blocks: list[list[int]] = []
    room = 0
    for index in columns:
        needed = _column_width(sheet, index) + 2
        if needed > room:
            blocks.append([])
            room = width - _label_width(sheet, width)
        blocks[-1].append(index)
        room -= needed
    return blocks


def _label_width(sheet: Sheet, width: int) -> int:
    labels = [sheet.label, *(label for heading, lines in sheet.sections for label in (heading, *dict(lines)))]
    widest = max(_column_width(sheet, index) for index in range(len(sheet.columns)))
    return min(max(map(len, labels)), LABEL_WIDTH, max(8, width - widest - 2))


def _column_width(sheet: Sheet, index: int) -> int:
    texts = [_tight(entries[index].text) for _, lines in sheet.sections for _, entries in lines]
    head = sheet.columns[index]
    return max(map(len, (*texts, head[:HEAD_WIDTH], *(word[:WORD_WIDTH] for word in head.split()))))


def _table(sheet: Sheet, block: Sequence[int], width: int) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column(Text(_plain(sheet.label)), width=_label_width(sheet, width), overflow="fold")
    for index in block:
        header = Text(_plain(sheet.columns[index]))
        table.add_column(header, width=_column_width(sheet, index), justify="right", overflow="fold")
    for heading, lines in sheet.sections:
        table.add_section()
        if heading:
            table.add_row(Text(heading, style="italic dim"))
        for label, entries in lines:
            cells = (Text(_tight(entries[i].text), style="bold" if entries[i].bold else "") for i in block)
            table.add_row(Text(_plain(label)), *cells)
    return table


def _tight(text: str) -> str:
    return text.replace(" ± ", "±")


def _plain(name: str) -> str:
    """Without line breaks, escape sequences and writing-direction marks."""
    return "".join(character if character.isprintable() else " " for character in name)


# -- files ------------------------------------------------------------------------------------------


def _markdown_row(texts: Iterable[str]) -> str:
    return f"| {' | '.join(texts)} |"


def _escaped(value: object) -> str:
    return MARKDOWN_SPECIAL.sub(r"\\\g<0>", _plain(str(value)))


def _csv_row(found: Leaderboard, board: Board, line: Line, abnormal: str, cell: Cell) -> list[object]:
    mean, difference = (cell.mean, cell.difference) if cell.n else (None, None)
    low = high = None
    if mean is not None and cell.half_width is not None:
        low, high = mean - cell.half_width, mean + cell.half_width
    names = [line.detector, line.variant, board.dataset, board.protocol, abnormal]
    how = [found.selection, found.evaluation, found.metric]
    numbers = [mean, cell.sd, cell.n, cell.n_planned, low, high, cell.paper, difference]
    ends = [cell.test_half_width, cell.diverged, cell.failed, cell.stale, cell.counted]
    whole = _csv_of_line(line) if abnormal == "mean" else [None] * 12
    own = [harmless(line.study), harmless(line.setting)]
    return [
        *map(harmless, names),
        *how,
        *numbers,
        *own,
        *ends,
        *whole,
        *_csv_paper(found, board, line, abnormal, cell),
    ]


def _csv_of_line(line: Line) -> list[object]:
    tested: list[object] = [None] * 6
    if line.behind is not None:
        behind = line.behind
        tested = [behind.mean, behind.half_width, behind.effect, behind.p, line.p_holm, behind.p_signed_rank]
    return [line.gap, *tested, line.parameters, line.train_seconds, line.cpu_hours, line.gpu_hours, line.usd]


def _csv_paper(found: Leaderboard, board: Board, line: Line, abnormal: str, cell: Cell) -> list[object]:
    """Source and reasons; those of a class mean are its classes'."""
    if cell.paper is None:
        return [None, None]
    titles, reasons = list[str](), list[str]()
    for name in line.cells if abnormal == "mean" else [abnormal]:
        printed = papers.printed(line.detector, board.dataset, board.protocol, name, found.metric)
        if printed is not None:
            titles.append(papers.SOURCES[printed.source].title)
            reasons += papers.differences(
                printed.source,
                line.detector,
                printed.protocol,
                protocol=board.protocol,
                selection=found.selection,
                evaluation=found.evaluation,
                changed=changed(line),
            )
    return ["; ".join(dict.fromkeys(texts)) for texts in (titles, reasons)]


def harmless(name: str) -> str:
    """On one line, and no formula whatever spreadsheet opens it."""
    plain = _plain(name)
    return f"'{plain}" if plain.lstrip().startswith(FORMULA) else plain


def publish(path: Path, data: bytes) -> Path:
    """Write a file whole or not at all."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    with beside.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
    return path
