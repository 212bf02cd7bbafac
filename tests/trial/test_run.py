"""A trial is a pure function of its spec; neither a crash nor a test sample changes what it learns."""

from __future__ import annotations

import dataclasses
import io
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor

import data.protocols
import data.storage.loader
import sweep.trial.run
from data.protocols import Split
from models.build import build
from models.ganomaly import GANomaly
from models.scoring import LAMBDAS, combine
from sweep.plan.expand import Planned
from sweep.spec.trial import EVALUATIONS, SELECTIONS, TrialSpec, Validation
from sweep.store import open_store
from sweep.store.attempts import Interrupted
from sweep.store.base import Store
from sweep.store.ledger import Record
from sweep.trial import metrics
from sweep.trial.options import Options, finish_trial
from sweep.trial.run import run_trial
from tests.plan.test_expand import work_of

SMALL = {"epochs": 3, "width": 4, "nz": 8, "batch_size": 64, "lr": 1e-3}


def spec_of(detector: str = "ganomaly", *, validated: bool = False, **changes: Any) -> TrialSpec:
    hyperparameters = {**(SMALL if "ganomaly" in detector else {}), **changes.pop("hyperparameters", {})}
    (planned, *_) = work_of(detectors=[detector], seeds=1, hyperparameters={detector: hyperparameters}).fixed
    fields: dict[str, Any] = {"preparation": "s16-bilinear-1", **changes}
    if validated:
        fields |= {"validation": Validation(), "protocol": "D1v"}
    return dataclasses.replace(planned.spec, **fields)


def finish(spec: TrialSpec, store: Store, cache: Path, lam: float | None = 0.0, **options: Any) -> Record:
    """Run a trial to its end, and return its result."""
    return finish_trial(run_trial(spec, store, Options(cache=cache, lambda_default=lam, **options)))


def numbers(result: Record) -> dict[str, Any]:
    """Return the part of a result that is a function of its spec."""
    return {name: result[name] for name in ("key", "spec", "status", "metrics", "validation", "split_hash")}


def stored(store: Store, spec: TrialSpec, name: str) -> bytes:
    return store.get(f"trials/{spec.key}/{name}")


@pytest.mark.parametrize("detector", ["ganomaly", "skip_ganomaly", "pca"])
def test_the_same_spec_gives_the_same_bits(detector: str, prepared: Path, cache: Path, tmp_path: Path) -> None:
    import shutil

    spec, lam = spec_of(detector), None if detector == "pca" else 0.5
    results, weights, scores = [], [], []
    for n in range(2):
        shutil.copytree(prepared / "datasets", tmp_path / str(n) / "datasets")
        store = open_store(str(tmp_path / str(n)))
        torch.rand(n + 1)  # like earlier work in this process, which must not matter
        results.append(numbers(finish(spec, store, cache, lam)))
        weights.append(stored(store, spec, "weights.safetensors"))
        scores.append(stored(store, spec, "scores.parquet"))
    assert results[0] == results[1]
    assert weights[0] == weights[1]
    assert scores[0] == scores[1]


@pytest.mark.parametrize(("detector", "scorings"), [("pixel_mean", 1), ("ganomaly", 3)])
def test_who_has_no_batch_statistics_is_scored_once_for_all_evaluations(
    detector: str, scorings: int, store: Store, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = spec_of(detector, evaluations=EVALUATIONS, eval_every=0)
    scored = Counter[str]()
    made = build(detector, channels=1, size=16, hyperparameters=dict(spec.hyperparameters), variant=spec.variant)
    real = type(made).components

    def counting(self: Any, batch: Tensor) -> dict[str, Tensor]:
        scored["images"] += len(batch)
        return real(self, batch)

    monkeypatch.setattr(type(made), "components", counting)
    result = finish(spec, store, cache, None if detector == "pixel_mean" else 0.0)
    entries = {e["evaluation"]: e for e in result["metrics"] if e["selection"] == "last"}
    assert set(entries) == set(EVALUATIONS)
    count = entries["clean"]["n_normal"] + entries["clean"]["n_abnormal"]
    assert scored["images"] == scorings * count
    assert (entries["clean"]["auroc"] == entries["legacy_shuffled"]["auroc"]) == (scorings == 1)


CHANGES: list[dict[str, Any]] = [{}, {"seed": 1}, {"split_seed": 1}]


def test_seed_and_split_seed_change_different_things(store: Store, cache: Path) -> None:
    first, seeded, split = (finish(spec_of(**changes), store, cache) for changes in CHANGES)
    assert first["split_hash"] == seeded["split_hash"] != split["split_hash"]
    assert first["metrics"] != seeded["metrics"]


@pytest.mark.parametrize(
    ("interrupted_at", "detector", "variant"),
    [
        (1, "ganomaly", "repo_head"),
        (2, "ganomaly", "repo_head"),
        (5, "ganomaly", "repo_head"),
        (9, "ganomaly", "repo_head"),
        (1, "ganomaly", "paper"),  # this and the next: before and while its learning rate falls
        (45, "ganomaly", "paper"),
        (9, "skip_ganomaly", "repo_2018"),  # this variant draws noise in every step
    ],
)
def test_an_interrupted_trial_goes_on_as_if_it_had_never_stopped(
    interrupted_at: int, detector: str, variant: str, store: Store, cache: Path, prepared: Path, tmp_path: Path
) -> None:
    import shutil

    spec = spec_of(detector, variant=variant, validated=True)
    options = Options(cache=cache, lambda_default=0.0, slice_seconds=0.0)
    running = run_trial(spec, store, options)
    for _ in range(interrupted_at):
        next(running)
    before = next(running)
    with pytest.raises(Interrupted):
        running.send(True)
    assert store.exists(f"trials/{spec.key}/checkpoint/latest.json")
    torch.rand(3)
    resumed_running = run_trial(spec, store, options)
    after = next(resumed_running)
    assert (after.epoch, after.step) > (before.epoch, before.step), "it went on from where it was"
    resumed_running.close()
    resumed = finish(spec, store, cache)

    shutil.copytree(prepared / "datasets", tmp_path / "calm" / "datasets")
    calm_store = open_store(str(tmp_path / "calm"))
    calm = finish(spec, calm_store, cache)
    assert numbers(resumed) == numbers(calm)
    for name in ("weights.safetensors", "scores.parquet", "history.parquet", "figures.npz"):
        assert stored(store, spec, name) == stored(calm_store, spec, name), name


def interrupt(store: Store, cache: Path) -> TrialSpec:
    """Run a trial into its second epoch, and stop it with a resume state."""
    spec = spec_of()
    running = run_trial(spec, store, Options(cache=cache, lambda_default=0.0, slice_seconds=0.0))
    while (at := next(running)).epoch < 1 or not at.step:
        pass
    with pytest.raises(Interrupted):
        running.send(True)
    return spec


def test_every_epoch_is_begun_once_and_again_on_a_resume_within_it(
    store: Store, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[int] = []
    monkeypatch.setattr(GANomaly, "begin_epoch", lambda _, epoch: begun.append(epoch))
    spec = interrupt(store, cache)
    assert begun == [0, 1]
    begun.clear()
    finish(spec, store, cache)
    assert begun == [1, 2]


def test_resume_state_is_gone_when_there_is_a_result(store: Store, cache: Path) -> None:
    spec = spec_of()
    finish(spec, store, cache, checkpoint_seconds=1e-9)
    left = {path.split("/", 2)[2] for path in store.list(f"trials/{spec.key}")}
    assert left <= {"result.json", "scores.parquet", "history.parquet", "weights.safetensors", "figures.npz", "lease"}


def test_no_test_row_reaches_weights_epochs_or_what_a_search_sees(
    store: Store, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = spec_of(validated=True)
    honest = finish(spec, store, cache)
    honest_weights = stored(store, spec, "weights.safetensors")
    store.delete_tree(f"trials/{spec.key}")
    rng = np.random.RandomState(0)
    true_split = data.protocols.split
    true_load = data.storage.loader.load
    opened: list[Split] = []

    def garbage_labels(*arguments: Any) -> Split:
        found = true_split(*arguments)
        opened.append(found)
        labels = rng.permutation(found.test_labels)
        return dataclasses.replace(found, test_labels=labels)

    def garbage_images(*arguments: Any) -> Any:
        found = true_load(*arguments)
        split = true_split(found, spec.protocol, spec.abnormal, spec.split_seed, (0.1, 0.2))
        images = found.images.copy()
        images[split.test] = rng.randint(0, 256, images[split.test].shape)
        return dataclasses.replace(found, images=images)

    monkeypatch.setattr(sweep.trial.run, "split", garbage_labels)
    monkeypatch.setattr(sweep.trial.run, "load", garbage_images)
    blind = finish(spec, store, cache)
    assert opened, "the garbage was used"
    assert blind["metrics"] != honest["metrics"]
    assert stored(store, spec, "weights.safetensors") == honest_weights
    assert blind["validation"] == honest["validation"]
    epochs = [{m["selection"]: m["epoch"] for m in r["metrics"] if m["selection"] != "oracle"} for r in (honest, blind)]
    assert epochs[0] == epochs[1]


def test_metrics_can_be_made_again_from_the_stored_scores(store: Store, cache: Path) -> None:
    spec = spec_of("skip_ganomaly", validated=True)
    result = finish(spec, store, cache, lam=0.9)
    table = pq.read_table(io.BytesIO(stored(store, spec, "scores.parquet"))).to_pydict()
    part, epoch, label = (np.array(table[name]) for name in ("part", "epoch", "label"))
    for entry in result["metrics"]:
        rows = (part == "test") & (epoch == entry["epoch"])
        found = metrics.evaluate(label[rows], np.array(table["score"])[rows])
        assert vars(found).items() <= entry.items()
    rows = (part == "validation") & (epoch == result["validation"]["epoch"])
    components = {name: np.array(table[name], np.float32)[rows] for name in ("reconstruction", "latent")}
    aurocs = [metrics.auroc(label[rows], combine(components, lam)) for lam in LAMBDAS]
    assert result["validation"]["auroc"] == aurocs


def test_the_audit_grid_is_every_evaluation_by_every_selection_and_changes_no_clean_number(
    store: Store, cache: Path
) -> None:
    audited, plain = spec_of(validated=True, evaluations=EVALUATIONS), spec_of(validated=True)
    result = finish(audited, store, cache)
    clean = [entry for entry in result["metrics"] if entry["evaluation"] == "clean"]
    assert clean == finish(plain, store, cache)["metrics"]
    assert stored(store, audited, "weights.safetensors") == stored(store, plain, "weights.safetensors")
    by = {(entry["evaluation"], entry["selection"]): entry for entry in result["metrics"]}
    assert set(by) == {(e, s) for e in EVALUATIONS for s in SELECTIONS}
    table = pq.read_table(io.BytesIO(stored(store, audited, "scores.parquet"))).to_pydict()
    names = [name if p == "test" else p for name, p in zip(table["evaluation"], table["part"], strict=True)]
    name, epoch, label = (np.array(found) for found in (names, table["epoch"], table["label"]))
    for (evaluation, _), entry in by.items():
        rows = (name == evaluation) & (epoch == entry["epoch"])
        assert metrics.auroc(label[rows], np.array(table["score"])[rows]) == entry["auroc"]


def test_early_stopping_looks_at_validation_alone(store: Store, cache: Path) -> None:
    wild = {"epochs": 12, "lr": 5e-2, "early_stopping": True}
    result = finish(spec_of(validated=True, eval_every=0, hyperparameters=wild), store, cache)
    spec = spec_of(validated=True, eval_every=0, hyperparameters=wild)
    history = pq.read_table(io.BytesIO(stored(store, spec, "history.parquet"))).to_pylist()
    validation = [row["validation_auroc"] for row in history]
    assert len(validation) == result["epochs_trained"] < 12
    assert validation[-1] < validation[-2]
    assert sorted(validation[:-1]) == validation[:-1]
    assert {entry["epoch"] for entry in result["metrics"] if entry["selection"] == "last"} == {len(validation)}
    free = spec_of(hyperparameters=wild)
    assert finish(free, store, cache)["epochs_trained"] == 12, "without validation there is no early stopping"


def test_scoring_that_takes_long_is_sampled_and_may_be_interrupted(store: Store, cache: Path) -> None:
    slow = {"epochs": 1, "width": 4, "nz": 8, "steps": 3, "max_test": 40}
    spec = spec_of("anogan", hyperparameters=slow)
    calm = numbers(finish(spec, store, cache, lam=0.9))
    assert calm["metrics"][0]["n_normal"] + calm["metrics"][0]["n_abnormal"] == 40
    scores = stored(store, spec, "scores.parquet")
    store.delete_tree(f"trials/{spec.key}")
    options = Options(cache=cache, lambda_default=0.9, slice_seconds=0.0)
    running = run_trial(spec, store, options)
    while next(running).steps:  # no steps: the trial scores
        pass
    with pytest.raises(Interrupted):
        running.send(True)
    assert numbers(finish(spec, store, cache, lam=0.9)) == calm
    assert stored(store, spec, "scores.parquet") == scores


def test_without_validation_no_epoch_is_chosen_by_it(store: Store, cache: Path) -> None:
    result = finish(spec_of(), store, cache)
    assert {entry["selection"] for entry in result["metrics"]} == {"last", "oracle"}
    assert result["validation"] is None


def test_a_trial_of_a_search_scores_no_test_row(store: Store, cache: Path) -> None:
    spec = spec_of(validated=True, evaluations=(), eval_every=0)
    result = finish(spec, store, cache)
    assert result["metrics"] == []
    assert len(result["validation"]["auroc"]) == len(LAMBDAS)
    table = pq.read_table(io.BytesIO(stored(store, spec, "scores.parquet")))
    assert set(table["part"].to_pylist()) == {"validation"}


@pytest.mark.parametrize("every", [0, 2])
def test_evaluation_happens_at_the_stated_epochs(every: int, store: Store, cache: Path) -> None:
    spec = spec_of(eval_every=every, hyperparameters={"epochs": 5})
    finish(spec, store, cache)
    rows = pq.read_table(io.BytesIO(stored(store, spec, "history.parquet"))).to_pylist()
    evaluated = [row["epoch"] for row in rows if not math.isnan(row["test_auroc"])]
    assert evaluated == ([5] if every == 0 else [2, 4, 5])


def test_an_evaluation_changes_nothing_that_training_depends_on(store: Store, cache: Path) -> None:
    often, once = (spec_of(eval_every=every) for every in (1, 0))
    assert numbers(finish(often, store, cache))["metrics"][0] == numbers(finish(once, store, cache))["metrics"][0]
    assert stored(store, often, "weights.safetensors") == stored(store, once, "weights.safetensors")


class Exploding(GANomaly):
    """A detector whose losses are not finite from the second epoch on."""

    lam = 0.0
    steps = 0

    def step(self, batch: Tensor) -> dict[str, Tensor]:
        losses = super().step(batch)
        self.steps += 1
        return {name: loss * (math.nan if self.steps > 24 else 1) for name, loss in losses.items()}


def test_a_loss_that_is_not_finite_is_a_result_and_not_a_failure(store: Store, cache: Path) -> None:
    spec = spec_of(hyperparameters=SMALL)
    spec = dataclasses.replace(spec, detector=f"{__name__}:Exploding", variant="plain")
    result = finish(spec, store, cache)
    assert result["status"] == "diverged"
    assert "not finite in epoch 2" in result["cause"]
    assert result["metrics"] == []


def test_the_first_result_of_a_trial_stands(store: Store, cache: Path) -> None:
    spec = spec_of("constant")
    first = finish(spec, store, cache, None)
    assert finish(spec, store, cache, None) == first


def test_a_constant_detector_has_chance_by_ties_and_says_so(store: Store, cache: Path) -> None:
    (last, *_) = finish(spec_of("constant"), store, cache, None)["metrics"]
    assert last["auroc"] == 0.5
    assert last["ties"] == 1.0


def test_a_missing_dataset_names_the_command_that_puts_it(tmp_path: Path, cache: Path) -> None:
    with pytest.raises(ValueError, match="python -m sweep data put digits"):
        finish(spec_of(), open_store(str(tmp_path / "empty")), cache)


def test_a_gpu_that_is_not_there_is_a_clear_failure(store: Store, cache: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(RuntimeError, match=r"trial\.gpus=0"):
        finish(spec_of(device="NVIDIA H100"), store, cache)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Restore the number of threads, which trials set, for the other tests."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def test_a_planned_trial_runs_as_it_was_planned(store: Store, cache: Path) -> None:
    planned: Planned = work_of(detectors=["pixel_mean"], seeds=1).fixed[0]
    spec = dataclasses.replace(planned.spec, preparation="s16-bilinear-1")
    result = finish(spec, store, cache, planned.lam)
    assert result["spec"] == spec.to_dict()
    assert TrialSpec.from_dict(result["spec"]).key == result["key"] == spec.key
