"""Text of strangers reaches a terminal without control characters."""

from __future__ import annotations

import io

import pytest
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from sweep.console import Display, SafeConsole, say

HOSTILE = "\x1b[2J\x1b]0;title\x07\x1b]52;c;eA==\x07\x9b31m\u202etext\r\x08\x7f"


def table(text: str) -> Table:
    made = Table(title=text)
    made.add_column(text)
    made.add_row(Text(text))
    return made


@pytest.mark.parametrize("what", [HOSTILE, Text(HOSTILE), table(HOSTILE), Group(Text(HOSTILE), table(HOSTILE))])
@pytest.mark.parametrize("terminal", [False, True])
def test_no_control_character_of_a_text_reaches_the_terminal(what: RenderableType, terminal: bool) -> None:
    file = io.StringIO()
    console = SafeConsole(file=file, force_terminal=terminal, color_system=None, width=100)
    console.print(what, markup=False)
    say(console, HOSTILE)
    with Display(console) as display:
        display.show(lambda: what, HOSTILE)
    printed = file.getvalue().replace("\x1b[?25l", "").replace("\x1b[?25h", "").replace("\x1b[2K", "").replace("\r", "")
    assert not {"\x1b[2J", "\x1b]"} & {printed[n : n + 4][:k] for n in range(len(printed)) for k in (2, 4)}
    assert not {"\x07", "\x9b", "\u202e", "\x08", "\x7f"} & set(printed)
    assert "text" in printed


def test_lines_and_own_styles_stay() -> None:
    file = io.StringIO()
    console = SafeConsole(file=file, force_terminal=True, color_system="standard", width=100)
    console.print("one\ntwo\n  three", style="red")
    assert file.getvalue() == "\x1b[31mone\x1b[0m\n\x1b[31mtwo\x1b[0m\n\x1b[31m  three\x1b[0m\n"
