"""Facts about how a configuration was judged, which decide what its numbers can be compared with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from sweep.leaderboard.rows import Row

HYPERPARAMETERS, EPOCH, END = "hyperparameters", "epoch", "end"  # what labels of the reported class may choose


@dataclass(frozen=True)
class Judging:
    """Test images, splits and labels with which the trials of one configuration were judged.

    Attributes:
        labels: what was chosen with labels of the reported class: of `HYPERPARAMETERS`, `EPOCH` and `END`.
        split_seeds: split seeds, in ascending order.
        seeds: number of pairs of split seed and training seed.
        tested: number of test samples by abnormal class, the smallest of its finished trials.
        copies: most test samples of a trial whose image is also a training image, and the samples of that trial;
            None if no trial has any, or an older version did not count them.
    """

    labels: tuple[str, ...] = ()
    split_seeds: tuple[int, ...] = ()
    seeds: int = 0
    tested: Mapping[str, int] = field(default_factory=dict)
    copies: tuple[int, int] | None = None


NOTHING_JUDGED = Judging()


def label_uses(row: Row) -> tuple[str, ...]:
    """Return what labels of the reported class chose in a trial.

    They are validation labels, never those of test samples.

    Args:
        row: one of `sweep.leaderboard.rows.build_rows`; older rows have no "stop_on".
    """
    validated = str(row["protocol"]).endswith("v")
    stops_early = validated and row.get("hp_early_stopping") and row.get("hp_epochs") != 0
    uses = {
        HYPERPARAMETERS: row["objective"] == "labelled",
        EPOCH: row["selection"] == "val",
        END: bool(stops_early) and row.get("stop_on") != "loss",
    }
    return tuple(name for name, used in uses.items() if used)


def judge_of(rows: Iterable[Row]) -> Judging:
    """Return how trials were judged; their rows are of one configuration, selection and evaluation."""
    rows = list(rows)
    units = {(row["split_seed"], row["seed"]) for row in rows}
    tested: dict[str, int] = {}
    copies: list[tuple[int, int]] = []
    for row in rows:
        if row["n_normal"] is not None and row["n_abnormal"] is not None:
            count = row["n_normal"] + row["n_abnormal"]
            tested[row["abnormal"]] = min(count, tested.get(row["abnormal"], count))
            if row.get("copies"):
                copies.append((row["copies"], count))
    return Judging(
        labels=tuple(dict.fromkeys(use for row in rows for use in label_uses(row))),
        split_seeds=tuple(sorted({split_seed for split_seed, _ in units})),
        seeds=len(units),
        tested=tested,
        copies=max(copies, default=None),
    )
