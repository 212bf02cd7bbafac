"""Sheets as GitHub-flavoured Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from sweep.console import printable
from sweep.leaderboard.audit import Audit
from sweep.leaderboard.board import Leaderboard
from sweep.leaderboard.runtime import Runtime
from sweep.report.sheet import Sheet
from sweep.report.sheets import sheets
from sweep.report.terminal import EMPTY

MARKDOWN_SPECIAL = re.compile(r"[\\`*|<>\[\]&~$]|(?<![^\W_])_|_(?![^\W_])")  # _ inside a word needs no escape


def render_markdown(
    leaderboard: Leaderboard,
    provenance: Mapping[str, object] | None = None,
    audited: Sequence[Audit] = (),
    other: Leaderboard | None = None,
    timed: Sequence[Runtime] = (),
) -> str:
    """Render the boards as GitHub-flavoured Markdown, with their provenance at the top.

    Args:
        leaderboard, audited, other, timed: see `sweep.report.sheets.sheets`.
        provenance: printed as a list above the tables, e.g. {"command": ..., "commit": ...}.
    """
    text = render_document("Leaderboard", sheets(leaderboard, audited, other, timed), provenance)
    return text if leaderboard.boards or timed else f"{text}\n{EMPTY}\n"


def render_document(title: str, tables: Iterable[Sheet], provenance: Mapping[str, object] | None) -> str:
    """Return a page: its title, the provenance as a list, and the sheets."""
    lines = [f"# {title}", ""]
    lines += [f"- {_escape(name)}: {_escape(value)}" for name, value in (provenance or {}).items()]
    lines += [""] if provenance else []
    for sheet in tables:
        lines += [f"## {_escape(sheet.title)}", ""]
        lines.append(_markdown_row([_escape(sheet.label), *map(_escape, sheet.columns)]))
        lines.append(_markdown_row(["---", *["--:"] * len(sheet.columns)]))
        for heading, section in sheet.sections:
            if heading:
                lines.append(_markdown_row([f"*{_escape(heading)}*", *[""] * len(sheet.columns)]))
            for label, entries in section:
                texts = [f"**{_escape(e.text)}**" if e.bold else _escape(e.text) for e in entries]
                lines.append(_markdown_row([_escape(label), *texts]))
        lines += ["", *(f"{_escape(caption)}  " for caption in sheet.captions), ""]
    return "\n".join(lines).rstrip() + "\n"


def _markdown_row(texts: Iterable[str]) -> str:
    return f"| {' | '.join(texts)} |"


def _escape(value: object) -> str:
    return MARKDOWN_SPECIAL.sub(r"\\\g<0>", printable(str(value)))
