"""Compare the board of the root README with a finished quickstart.

    python -m tests.benchmarks.readme_board STORE

STORE is where `python -m sweep launch clusters/local.yaml -y --set storage=STORE` has put its results.  Each number of
the page must be what the quickstart gives, the lines must be in its order, and its sentence on the gap must hold.  Exit
code 1 and a line for each difference if not.

Skip-GANomaly's trained lines may differ by 0.1: in float32, CPUs without AVX-512 give them other numbers.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from sweep.cli.session import Session
from sweep.leaderboard.board import Board, builder
from sweep.leaderboard.entry import Entry
from sweep.report.sheet import line_label

ROOT = Path(__file__).parents[2]
BEGIN = "digits D1: AUROC, last epoch, clean"
SENTENCE = "nearest neighbours on raw pixels beat every GAN"
LOOSE, TOLERANCE = "skip_ganomaly", 0.1
NUMBER = re.compile(r"(?<![\d.±])[+-]?\d\.\d{3}(?!\d)")  # no half-width
IN_BRACKETS = re.compile(r"\(.*?\)|\[.*?\]")  # ranges and intervals


def read_board(store: str) -> Board:
    """Return the quickstart's board for the last epoch and clean scores."""
    session = Session(ROOT / "clusters/local.yaml", [f"storage={store}"], as_launched=True)
    (found,) = builder(session.reporting().rows)("last", "clean", "auroc").boards
    return found


def differences(page: str, board: Board) -> Iterator[str]:
    """Yield what the board on a page has that the quickstart's board has not.

    Args:
        page: text of the page.
        board: result of `read_board`.
    """
    shown = page.partition(BEGIN)[2].partition("```")[0].splitlines()
    labels = {line_label(line, board.lines): line for line in board.lines}
    columns: Sequence[str] = ()
    names: list[str] = []
    for text in shown:
        if text.startswith("detector"):
            columns = text.split()[1:]
        label = max((name for name in labels if text.startswith(f"{name} ")), key=len, default=None)
        if label is None:
            continue
        line, numbers = labels[label], NUMBER.findall(IN_BRACKETS.sub("", text.removeprefix(label)))
        if columns[0] in board.classes:
            expected = [(name, line.cells[name].mean) for name in columns]
        else:
            names.append(label)
            expected = [("class mean", line.mean.mean), *([] if line.reference else [("gap", line.gap)])]
        yield from _compare(label, line, numbers, expected)
    if not names:
        yield f"the page has no board that begins with {BEGIN!r}"
    ordered = sorted(labels, key=lambda name: labels[name].reference)
    if names != [name for name in ordered if name in names]:
        yield f"order of the lines: {', '.join(ordered)}"
    if SENTENCE not in page:
        yield f"the page does not say {SENTENCE!r}"
    above = [label for label, line in labels.items() if not line.reference and (line.gap is None or line.gap >= 0)]
    best = next(line for line in board.lines if line.reference)
    if above or best.detector != "knn":
        yield f"{SENTENCE!r} is wrong: best without training is {best.detector}, and above it {', '.join(above)}"


def _compare(label: str, line: Entry, numbers: list[str], expected: list[tuple[str, float | None]]) -> Iterator[str]:
    if len(numbers) != len(expected):
        yield f"{label}: {len(numbers)} numbers, expected {len(expected)}"
        return
    for text, (column, value) in zip(numbers, expected, strict=True):
        loose = line.detector == LOOSE and line.train_seconds
        if value is None or abs(float(text) - value) > (TOLERANCE if loose else 0.0005001):
            yield f"{label}, {column}: the page has {text}, the quickstart {value}"


if __name__ == "__main__":
    found = list(differences((ROOT / "README.md").read_text(), read_board(sys.argv[1])))
    print("\n".join(found) or "the board on the page is the quickstart's")
    sys.exit(bool(found))
