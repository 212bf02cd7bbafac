"""Expected seconds of trials: measured where results exist, otherwise from the hints of the detector catalog."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Mapping, MutableMapping
from statistics import median
from typing import Any

from data.catalog import DatasetInfo
from models import catalog as detectors
from sweep.plan.expand import Planned, Work
from sweep.spec.trial import FIELDS, TrialSpec
from sweep.store.ledger import Damaged, Ledger, Record

OVERHEAD_SECONDS = 0.05  # a trial that trains nothing still opens its data and puts a result
SAMPLE = 20  # finished trials of a cell that are read; their median is precise enough
TRAIN_SHARE = 0.75  # rough share of a dataset's images, for every protocol
TEST_SHARE = 0.25
GPU_CORES = 30  # CPU cores that a GPU counts as until a trial was measured on it; a guess
# Fields in which trials of one cost may differ; hyperparameters are compared separately, the others cost nothing.
APART = ("abnormal", "seed", "split_seed", "hyperparameters")


class Cost:
    """Expected seconds of a trial.

    A trial takes the median of finished trials that differ only in class or seed.  If there are none, its hint is
    scaled by the ratio of real to hinted seconds of the detector's finished trials.

    Args:
        datasets: datasets of all trials, by name.
        results: results of finished trials.
    """

    def __init__(self, datasets: Mapping[str, DatasetInfo], results: Iterable[Mapping[str, Any]] = ()) -> None:
        self._datasets = datasets
        seconds: dict[Hashable, list[float]] = {}
        ratios: dict[str, list[float]] = {}
        for result in results:
            if result["status"] != "ok":
                continue
            spec = TrialSpec.from_dict(result["spec"])
            took = float(result["seconds"])
            seconds.setdefault(_alike(spec), []).append(took)
            ratios.setdefault(spec.detector, []).append(took / self._hint(spec))
        self._seconds = {group: median(values) for group, values in seconds.items()}
        self._ratios = {detector: median(values) for detector, values in ratios.items()}
        self._known: dict[Hashable, float] = {}

    def seconds(self, planned: Planned) -> float:
        """Return the seconds that a planned trial takes on one slot."""
        group = _alike(planned.spec)
        if group not in self._known:
            scale = self._ratios.get(planned.detector, 1.0)
            self._known[group] = self._seconds.get(group) or self._hint(planned.spec) * scale
        return self._known[group]

    def measured(self, planned: Planned) -> bool:
        """Return True if a trial that differs only in class or seed has been measured."""
        return _alike(planned.spec) in self._seconds

    def _hint(self, spec: TrialSpec) -> float:
        return hint(spec, self._datasets[spec.dataset])


def sample_cost(
    work: Work, planned: Iterable[Planned], ledger: Ledger, finished: Collection[str], also: Iterable[Record] = (),
    damaged: MutableMapping[str, Damaged] | None = None,
) -> Cost:  # fmt: skip
    """Return the costs, from a few finished trials of each cell.

    Args:
        work: work of the sweep, for its datasets.
        planned: trials to sample from.
        ledger: ledger that holds their results.
        finished: keys that have a result.
        also: further results that were read already.
        damaged: as for `Ledger.results`.
    """
    taken: Counter[tuple[str, ...]] = Counter()
    keys = []
    for trial in planned:
        if trial.key in finished and taken[trial.cell] < SAMPLE:
            taken[trial.cell] += 1
            keys.append(trial.key)
    return Cost(work.datasets, [*ledger.results(keys, damaged).values(), *also])


def hint(spec: TrialSpec, dataset: DatasetInfo) -> float:
    """Return the seconds of a trial before anything was measured, by the catalog's formulas.

    On a CPU the hint is right within a factor of two.
    """
    info = detectors.detector(spec.detector)
    arguments = spec.size, dataset.channels, spec.numerics.precision
    train, test = int(dataset.images * TRAIN_SHARE), int(dataset.images * TEST_SHARE)
    epochs = int(spec.hyperparameters.get("epochs", 1))
    every = spec.eval_every
    evaluations = 1 + (epochs // every if every and spec.evaluations else 0)
    training = epochs * info.cost.epoch(spec.hyperparameters, train, *arguments)
    scoring = evaluations * info.cost.score(spec.hyperparameters, test, *arguments)
    if spec.timing is not None:
        batches = spec.timing.warmup + spec.timing.repetitions
        scoring = info.cost.score(spec.hyperparameters, batches * sum(spec.timing.batch_sizes), *arguments)
    cores = spec.numerics.threads if spec.device == "cpu" else GPU_CORES
    return OVERHEAD_SECONDS + (training + scoring) / cores


def _alike(spec: TrialSpec) -> Hashable:
    """Return an identity that trials share if they differ only in class or seed."""
    same = [getattr(spec, name) for name in FIELDS if name not in APART]
    return (*same, tuple(sorted(spec.hyperparameters.items())))
