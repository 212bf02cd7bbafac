"""Values that papers printed for cells of our boards, and why each is not the same experiment as ours."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import Any, NamedTuple

from models.catalog import DETECTORS
from models.info import DetectorInfo


class Printed(NamedTuple):
    """A value in a paper's table: AUROC, or average precision that the paper calls AUROC.

    Attributes:
        value: value as printed.
        protocol: id of the split that the table's text describes.
        source: key of `SOURCES`.
    """

    value: float
    protocol: str
    source: str


@dataclass(frozen=True)
class Source:
    """A table of a paper.

    Attributes:
        title: paper and table.
        own: detectors whose published code shows how their values were made: the best epoch on the test
            set, with test batches normalised by their own statistics.
        evaluation: name of our evaluation that is the same as that of `own`.
        others: how the values of the remaining detectors were made.
    """

    title: str
    own: frozenset[str]
    evaluation: str
    others: str


# Texts of SOURCES and `differences` are in the leaderboard.csv of bundles.  The verification of a bundle
# compares that file with what this version writes, so a changed text would count as a difference.
_UNPUBLISHED = "the authors' own implementation, of which neither code nor selection nor evaluation is published"
SOURCES = {
    "ganomaly_paper_tab1": Source(
        "GANomaly 2018, Table 1",
        frozenset({"ganomaly"}),
        "legacy_shuffled",
        "probably average precision, read off the bar chart of EGBAD's paper (multiples of 0.005, near the base "
        "rate), of the last epoch; by EGBAD's code 80 % of the test's normals were trained on",
    ),
    "ganomaly_paper_tab2": Source("GANomaly 2018, Table 2", frozenset({"ganomaly"}), "legacy_ordered", _UNPUBLISHED),
    "ganomaly_paper_tab3": Source("GANomaly 2018, Table 3", frozenset({"ganomaly"}), "legacy_ordered", _UNPUBLISHED),
    "ganomaly_paper_text": Source("GANomaly 2018, text", frozenset({"ganomaly"}), "legacy_ordered", _UNPUBLISHED),
    "skip_paper_tab1": Source(
        "Skip-GANomaly 2019, Table 1",
        frozenset({"ganomaly", "skip_ganomaly"}),
        "legacy_ordered",
        "the numbers of GANomaly's Table 2, made under protocol C1 by an implementation that was not published",
    ),
    "skip_paper_tab2": Source(
        "Skip-GANomaly 2019, Table 2",
        frozenset({"ganomaly", "skip_ganomaly"}),
        "legacy_ordered",
        _UNPUBLISHED,
    ),
}
_EVALUATIONS = {
    "clean": "BatchNorm in evaluation mode",
    "legacy_ordered": "BatchNorm by test batch, normals first",
    "legacy_shuffled": "BatchNorm by test batch, shuffled",
}
_SELECTIONS = {
    "last": "the last epoch",
    "val": "the best epoch on validation",
    "val_normal": "the epoch of the lowest loss on validation normals",
    "oracle": "the best epoch on the test set",
}


def printed_value(detector: str, dataset: str, protocol: str, abnormal: str, metric: str) -> Printed | None:
    """Return the value that a paper printed for a cell; None if no paper did.

    If two papers did, it is the value of the paper with the same protocol, otherwise that of the first paper
    in the file.  Values that are probably not the metric that their paper names are listed under both
    metrics.

    Args:
        detector, dataset, protocol, abnormal: the cell; "v" at the end of the protocol (its validated form)
            is ignored.
        metric: "auroc", "ap" or "fpr95".
    """
    found = _cells().get((detector, dataset, abnormal, metric))
    if found is None:
        return None
    return next((one for one in found if one.protocol == protocol.removesuffix("v")), found[0])


def claims(info: DetectorInfo, variant: str) -> bool:
    """Return True if a variant claims to be its paper's detector: each version of the paper or its code that trains.

    Args:
        info: the detector.
        variant: one of its variants, or another name, which claims nothing.
    """
    found = info.variants.get(variant)
    return found is not None and found.fixed.get("epochs") != 0


def reduced_budget(detector: str, variant: str, dataset: str, hyperparameters: Mapping[str, Any]) -> str:
    """Return, for example, "2 of 15 epochs" if a published detector trains for fewer epochs than its variant has.

    Args:
        detector, variant, dataset: those of the trial.
        hyperparameters: those of the trial; {} if a search has not chosen them yet.

    Returns:
        The text; "" for a full budget, and for detectors and variants that no paper trains.
    """
    info, epochs = DETECTORS.get(detector), hyperparameters.get("epochs")
    if info is None or not info.paper or epochs is None or not claims(info, variant):
        return ""
    chosen = info.variant(variant)
    default = next(parameter.default for parameter in info.fields if parameter.name == "epochs")
    usual = {"epochs": default, **chosen.overrides, **chosen.on.get(dataset, {})}["epochs"]
    return f"{epochs} of {usual} epochs" if int(epochs) < int(usual) else ""


def protocols_of(detector: str, dataset: str) -> frozenset[str]:
    """Return the protocols of the values that papers printed for a detector on a dataset; "" for an unknown one."""
    return frozenset(one.protocol for (d, s, *_), cells in _cells().items() if (d, s) == (detector, dataset)
                     for one in cells)  # fmt: skip


def printings(detector: str, dataset: str, abnormal: str, metric: str) -> dict[str, Printed]:
    """Return all values that papers printed for a cell, by source."""
    return {one.source: one for one in _cells().get((detector, dataset, abnormal, metric), ())}


def metrics_of(detector: str, dataset: str, source: str) -> tuple[str, ...]:
    """Return the metrics that the source's values for a detector may be, for example ("auroc", "ap")."""
    found = [
        m
        for (d, s, _, m), cells in _cells().items()
        for one in cells
        if (d, s, one.source) == (detector, dataset, source)
    ]
    return tuple(dict.fromkeys(found))


def differences(
    source: str, detector: str, theirs: str, *, protocol: str, selection: str, evaluation: str, changed: str = ""
) -> Iterator[str]:
    """Yield the reasons why the paper's value and ours are not the same experiment.

    Args:
        source, detector: source and detector of the value.
        theirs: protocol of the paper's value.
        protocol, selection, evaluation: ours.
        changed: our hyperparameters that are not the published ones.
    """
    origin = SOURCES[source]
    if detector in origin.own:
        if selection != "oracle":
            yield f"selection: theirs is {_SELECTIONS['oracle']}, ours {_SELECTIONS[selection]}"
        if evaluation != origin.evaluation:
            yield f"evaluation: theirs {_EVALUATIONS[origin.evaluation]}, ours {_EVALUATIONS[evaluation]}"
    else:
        yield f"origin: {origin.others}"
        yield f"selection and evaluation: ours {_SELECTIONS[selection]}, {_EVALUATIONS[evaluation]}"
    if theirs and theirs != protocol:
        yield f"protocol: theirs {theirs}, ours {protocol}"
    if changed:
        yield f"hyperparameters: ours {changed}"
    yield "seeds: a table of single numbers, with neither how many runs nor their spread"


RUNTIME_SOURCES = {"ganomaly_paper_tab4": "GANomaly 2018, Table 4"}
_RUNTIME_UNITS = {
    "ganomaly": "its published code prints the mean of the first 100 test batches of 64, in ms per batch, and does not "
    "wait for the GPU",
    "egbad": "its authors' code prints seconds per batch of 100",
    "anogan": "its authors published no code",
}


def printed_runtime(detector: str, dataset: str) -> tuple[float, str] | None:
    """Return the milliseconds that a paper printed for a detector, and the key of their source; None if none did."""
    return _runtimes().get((detector, dataset))


def runtime_differences(detectors: Iterable[str], ours: str) -> Iterator[str]:
    """Yield the reasons why a paper's milliseconds and ours are not the same experiment.

    Args:
        detectors: detectors whose milliseconds are shown.
        ours: our hardware and versions.
    """
    yield f"hardware: the paper used an NVIDIA GTX Titan X with PyTorch 0.3.0, we used {ours}"
    units = [f"{detector}: {_RUNTIME_UNITS[detector]}" for detector in detectors if detector in _RUNTIME_UNITS]
    yield f"unit: the paper gives ms, but not for how many images; {'; '.join(units)}"
    yield "repetitions: the paper has single numbers, without the number of runs or their spread"


@lru_cache(maxsize=1)
def _runtimes() -> dict[tuple[str, str], tuple[float, str]]:
    """Return milliseconds and source by detector and dataset."""
    text = (files("sweep.leaderboard") / "paper_runtime.csv").read_text(encoding="utf-8")
    return {
        (row["detector"], row["dataset"]): (float(row["milliseconds"]), row["source"])
        for row in csv.DictReader(text.splitlines())
    }


@lru_cache(maxsize=1)
def _cells() -> dict[tuple[str, str, str, str], tuple[Printed, ...]]:
    """Return printed values by detector, dataset, abnormal class and metric, in the order of the file."""
    found: dict[tuple[str, str, str, str], list[Printed]] = {}
    text = (files("sweep.leaderboard") / "paper_results.csv").read_text(encoding="utf-8")
    for row in csv.DictReader(text.splitlines()):
        for metric in row["metric"].split("|"):
            cell = found.setdefault((row["detector"], row["dataset"], row["abnormal"], metric), [])
            cell.append(Printed(float(row["value"]), row["protocol"], row["source"]))
    return {cell: tuple(values) for cell, values in found.items()}
