r"""Sheets as LaTeX tables for a paper: booktabs, plain pdflatex, `\input{leaderboard.tex}`.

Names come from users, so every character is escaped.  A character that the fonts of pdflatex lack is written as its
code point.  Therefore the file always compiles, and no name can become a command.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping

from sweep.report.sheet import Sheet, SheetCell

WIDE = 6  # a table with this many columns of numbers is shrunk to the width of the text

HEAD = r"""% Tables of a leaderboard; names are escaped.  The document's preamble needs
%   \usepackage[T1]{fontenc}
%   \usepackage{booktabs,graphicx}
"""

_SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': r"\textquotedbl{}", "`": r"\textasciigrave{}", "'": r"\textquotesingle{}",
    "-": "-{}", "?": "?{}", "!": "!{}", ",": ",{}", "[": "{[}", "]": "{]}", "*": "{*}",
    "±": r"\ensuremath{\pm}", "≈": r"\ensuremath{\approx}", "†": r"\textdagger{}", "‡": r"\textdaggerdbl{}",
    "✗": r"\ensuremath{\times}", "§": r"\textsection{}", "·": r"\ensuremath{\cdot}",
    "ß": r"\ss{}", "ø": r"\o{}", "Ø": r"\O{}", "æ": r"\ae{}", "Æ": r"\AE{}", "œ": r"\oe{}", "Œ": r"\OE{}",
    "ł": r"\l{}", "Ł": r"\L{}",
}  # fmt: skip
_ACCENTS = {
    "\u0300": "`", "\u0301": "'", "\u0302": "^", "\u0303": "~", "\u0304": "=", "\u0306": "u", "\u0307": ".",
    "\u0308": '"', "\u030a": "r", "\u030b": "H", "\u030c": "v", "\u0327": "c", "\u0328": "k",
}  # fmt: skip


def render_document(sheets: Iterable[Sheet], provenance: Mapping[str, object] | None = None) -> str:
    """Return the sheets as a file for `\\input`, with their provenance as comments at the top."""
    lines = [HEAD]
    lines += [f"% {_comment(name)}: {_comment(value)}" for name, value in (provenance or {}).items()]
    return "\n".join([*lines, "", *(render_table(sheet) for sheet in sheets)])


def render_table(sheet: Sheet) -> str:
    """Return one sheet as a table; its caption has the title and the captions of the sheet."""
    columns = len(sheet.columns)
    rows = [_row([sheet.label, *sheet.columns]), r"\midrule"]
    for number, (heading, lines) in enumerate(sheet.sections):
        rows += [r"\midrule"] if number else []
        rows += [rf"\multicolumn{{{columns + 1}}}{{l}}{{\emph{{{escape(heading)}}}}} \\"] if heading else []
        rows += [_row([label, *entries]) for label, entries in lines]
    body = "\n".join([rf"\begin{{tabular}}{{l{'r' * columns}}}", r"\toprule", *rows, r"\bottomrule", r"\end{tabular}"])
    if columns >= WIDE:
        body = f"\\resizebox{{\\textwidth}}{{!}}{{%\n{body}}}"
    caption = " ".join(f"{escape(text)}" for text in (f"{sheet.title}.", *sheet.captions))
    return "\n".join([r"\begin{table}[htbp]", r"\centering\small", rf"\caption{{{caption}}}", body, r"\end{table}", ""])


def escape(text: str) -> str:
    """Escape a text so that LaTeX prints exactly this text."""
    return "".join(map(_character, unicodedata.normalize("NFC", text)))


def _character(character: str) -> str:
    if character in _SPECIAL:
        return _SPECIAL[character]
    if character.isascii():
        return character if character.isprintable() else " "
    decomposed = unicodedata.normalize("NFD", character) + " "
    base, mark = decomposed[0], decomposed[1]
    if unicodedata.normalize("NFC", base + mark) == character and base.isascii() and mark in _ACCENTS:
        return f"\\{_ACCENTS[mark]}{{{base}}}"
    if not character.isprintable():
        return " "
    return rf"\texttt{{U+{ord(character):04X}}}"


def _row(texts: Iterable[str | SheetCell]) -> str:
    return " & ".join(map(_cell, texts)) + r" \\"


def _cell(text: str | SheetCell) -> str:
    if isinstance(text, str):
        return escape(text)
    minus = re.sub(r"^(-)\{\}(?=\d)", r"\\ensuremath{-}", escape(text.text))
    return rf"\textbf{{{minus}}}" if text.bold else minus


def _comment(value: object) -> str:
    """Return printable ASCII on one line, because a line break would end the comment."""
    return "".join(c if c.isascii() and c.isprintable() else "?" for c in str(value))
