"""Tables of a report for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

from collections.abc import Iterable, Sequence

from sweep.console import printable
from sweep.leaderboard.audit import Audit
from sweep.leaderboard.board import Leaderboard
from sweep.leaderboard.runtime import Runtime
from sweep.report.sheet import Sheet
from sweep.report.sheets import sheets

EMPTY = "Nothing is planned for this selection and evaluation."
LABEL_WIDTH = 34  # largest width of the first column; longer labels are folded
HEAD_WIDTH, WORD_WIDTH = 12, 16  # largest width of a column's heading, and of one word in it; longer ones are folded


def render_terminal(
    leaderboard: Leaderboard,
    width: int = 100,
    audited: Sequence[Audit] = (),
    other: Leaderboard | None = None,
    timed: Sequence[Runtime] = (),
) -> Group:
    """Render the boards for a terminal of `width` characters; a wider table continues in more blocks of columns.

    Args:
        leaderboard, audited, other, timed: see `sweep.report.sheets.sheets`.
        width: characters in a line.
    """
    return render(sheets(leaderboard, audited, other, timed), width)


def render(tables: Iterable[Sheet], width: int = 100) -> Group:
    """Render sheets for a terminal of `width` characters."""
    from rich.console import Group
    from rich.text import Text

    parts: list[Text | Table] = []
    for sheet in tables:
        parts.append(Text(printable(sheet.title), style="bold"))
        for block in _blocks(sheet, width):
            parts += [_table(sheet, block, width), Text("")]
        parts += [Text(printable(caption), style="dim") for caption in sheet.captions]
        parts += [Text("")] if sheet.captions else []
    return Group(*(parts or [Text(EMPTY)]))


def _blocks(sheet: Sheet, width: int) -> list[list[int]]:
    """Group columns that fit next to the label: all in one block, else leading and other columns in separate blocks."""
    whole = _fit_columns(sheet, range(len(sheet.columns)), width)
    if len(whole) == 1 or not sheet.lead:
        return whole
    others = _fit_columns(sheet, range(sheet.lead, len(sheet.columns)), width)
    return _fit_columns(sheet, range(sheet.lead), width) + others


def _fit_columns(sheet: Sheet, columns: Iterable[int], width: int) -> list[list[int]]:
    """Fill each block with as many columns as fit, in order, and at least one."""
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
    table.add_column(Text(printable(sheet.label)), width=_label_width(sheet, width), overflow="fold")
    for index in block:
        header = Text(printable(sheet.columns[index]))
        table.add_column(header, width=_column_width(sheet, index), justify="right", overflow="fold")
    for heading, lines in sheet.sections:
        table.add_section()
        if heading:
            table.add_row(Text(heading, style="italic dim"))
        for label, entries in lines:
            cells = (Text(_tight(entries[i].text), style="bold" if entries[i].bold else "") for i in block)
            table.add_row(Text(printable(label)), *cells)
    return table


def _tight(text: str) -> str:
    return text.replace(" ± ", "±")
