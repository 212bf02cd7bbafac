"""LaTeX tables: they compile, and no name in them is a command."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from sweep.leaderboard.audit import audits
from sweep.leaderboard.board import build, builder
from sweep.report import latex
from sweep.report.files import companion
from sweep.report.sheets import sheets
from tests.conftest import unavailable
from tests.report.test_report import SCENE, hostile_rows

NASTY = [
    "\\input{/etc/passwd}", "100%", "a_b^c~d", "$x$ & {y}", "#1", "\\\\", "}\\end{document}", "-- ?` !` ''", "[x]",
    "crème brûlée Łódź ß", "猫 🐈", "a\nb", "\u202eabc",
]  # fmt: skip

PLAIN = r"[A-Za-z0-9 .:;/+=()@-]|\{\}"
SYMBOL = r"\\(?:text\w+|ss|aa|[oOlLi]|ae|AE|oe|OE)\{\}|\\ensuremath\{\\\w+\}|\\[`'^~=.\"ucrvHk]\{[A-Za-z]\}"
OURS = re.compile(rf"(?:{PLAIN}|{SYMBOL}|\\[{{}}$&#%_]|[?!,]\{{\}}|\{{[][*]\}}|\\texttt\{{U\+[0-9A-F]+\}})*")


@given(st.text(max_size=20) | st.sampled_from(NASTY))
def test_no_name_is_a_command(name: str) -> None:
    text = latex.escape(name)
    assert text.isascii() and text.isprintable()
    assert OURS.fullmatch(text), "it has only escapes and characters that are no command"


def test_the_tables_compile(tmp_path: Path) -> None:
    if shutil.which("pdflatex") is None:
        unavailable("pdflatex is not installed (Debian: texlive-latex-base, texlive-latex-recommended)")
    wide = [
        dict(entry, dataset=name, abnormal=f"{name} {c}") for c in range(9) for name in NASTY for entry in SCENE[:1]
    ]
    hostile = [entry for name in NASTY for entry in hostile_rows((name, name, name))]
    found = [*SCENE, *wide, *hostile]
    shown = build(found)
    every = sheets(shown, audits(found), companion(builder(found), shown))
    (tmp_path / "leaderboard.tex").write_text(latex.render_document(every, {"command": "x\n\\error", "name": "ü"}))
    (tmp_path / "paper.tex").write_text(
        "\\documentclass{article}\\usepackage[T1]{fontenc}\\usepackage{booktabs,graphicx}\n"
        "\\begin{document}\\input{leaderboard.tex}\\end{document}\n"
    )
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "paper.tex"],
        cwd=tmp_path, capture_output=True, text=True, errors="replace", timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "paper.pdf").stat().st_size > 10_000
    assert "Missing character" not in done.stdout


def test_numbers_are_set_as_numbers_and_the_best_is_bold() -> None:
    text = latex.render_document(sheets(build(SCENE)))
    assert r"\textbf{0.900}" in text and "0.913 (0.900-{}0.930)" in text
    assert r"\ensuremath{-}0" in text
    assert r"\toprule" in text and r"\bottomrule" in text
