"""Caption of a board with lines that look at features of a network that was trained on other images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sweep.leaderboard.entry import Entry
from sweep.report.sheet import line_label


def pretraining_captions(lines: Sequence[Entry]) -> Iterator[str]:
    """Yield which lines saw ImageNet; nothing if none did."""
    names = [line_label(line, lines) for line in lines if line.hyperparameters.get("weights")]
    if names:
        yield (
            f"saw ImageNet: {', '.join(names)}.  No network is trained on the dataset, but the features come from one "
            "that was trained on 1.28 million labelled photographs.  No other line saw them."
        )
