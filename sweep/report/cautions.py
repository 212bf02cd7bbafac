"""Captions that say what a board's numbers cannot be compared with, or what their intervals leave out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from data.catalog import BY_SOURCE
from sweep.leaderboard.board import Board
from sweep.leaderboard.entry import Entry
from sweep.leaderboard.judging import END, EPOCH, HYPERPARAMETERS
from sweep.report.sheet import line_label

USES = {
    HYPERPARAMETERS: "the hyperparameters; objective: transfer tunes on other classes",
    EPOCH: "the epoch; the selection val_normal takes the loss of normal images alone",
    END: "the end of the training; validation: {stop_on: loss} takes the loss of normal images alone",
}


def cautions(board: Board) -> Iterator[str]:
    """Yield the cautions that apply to a board, one caption each."""
    yield from supervision(board)
    yield from test_sizes(board)
    yield from copies(board)
    yield from splits(board)


def supervision(board: Board) -> Iterator[str]:
    """Yield what labels of the reported class chose on the lines that are marked as supervised."""
    marked = [line for line in board.lines if line.supervised]
    for use, text in USES.items():
        of_use = [line for line in marked if use in line.judging.labels]
        if of_use:
            where = "" if len(of_use) == len(marked) else f" ({_names(of_use, board)})"
            yield f"‡ supervised{where}: validation labels of the reported class chose {text}."


def test_sizes(board: Board) -> Iterator[str]:
    """Yield the lines that are judged on fewer test images than another line, with both numbers."""
    whole = {
        abnormal: max((line.judging.tested.get(abnormal, 0) for line in board.lines), default=0)
        for abnormal in board.classes
    }
    for line in board.lines:
        fewer = [(n, whole[name], name) for name, n in line.judging.tested.items() if n < whole[name]]
        if fewer:
            count, of, abnormal = min(fewer)
            remedy = ""
            if line.hyperparameters.get("max_test"):
                remedy = f"; --set sweep.hyperparameters.{line.detector}.max_test=0 judges it on all"
            yield (
                f"{_names([line], board)}: judged on {count:,} of the {of:,} test images (class {abnormal}) on which "
                f"others are judged{remedy}."
            )


def copies(board: Board) -> Iterator[str]:
    """Yield how many test images are also training images, if any are."""
    found = [line.judging.copies for line in board.lines if line.judging.copies is not None]
    if found:
        count, of = max(found, key=lambda pair: pair[0] / pair[1])
        yield (
            f"Up to {count:,} of {of:,} test images ({100 * count / of:.2f} %) are also training images, pixel for "
            f"pixel: {board.protocol} is the published split of {board.dataset}."
        )


def splits(board: Board) -> Iterator[str]:
    """Yield whether the seeds of a line share one split, for lines with several seeds."""
    several = [line for line in board.lines if line.judging.seeds > 1]
    fixed = [line for line in several if len(line.judging.split_seeds) == 1]
    moving = [line for line in several if len(line.judging.split_seeds) > 1]
    if board.protocol in BY_SOURCE:
        if several:
            yield f"{board.protocol} is the source's own split, the same for all seeds."
        return
    if fixed:
        numbers = sorted({seed for line in fixed for seed in line.judging.split_seeds})
        where = f" of {_names(fixed, board)}" if moving else ""
        yield (
            f"All seeds{where} share one split (split seed {', '.join(map(str, numbers))}), so no interval contains "
            "the choice of training images; split_seed: follow draws a split for each seed."
        )
    if moving:
        where = f" of {_names(moving, board)}" if fixed else ""
        yield f"Each seed{where} has a split of its own (split_seed: follow)."


def _names(lines: Sequence[Entry], board: Board) -> str:
    return ", ".join(line_label(line, board.lines).removesuffix("‡") for line in lines)
