"""One trial: data, detector, training loop, evaluations, result.  `run_trial(TrialSpec) -> Result`.

`sweep.trial` is the only package that joins `models` and `data`.  It needs torch and a store, but
neither Ray nor Optuna.  So it runs in any process: under a debugger, or on a bare GPU machine.
"""

from __future__ import annotations

import io
import math
import os
import platform
import time
from collections.abc import Generator
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import safetensors.torch
import torch
from torch import Tensor

from data.protocols import Split, count_trained_on, split
from data.storage.loader import Dataset, load
from models.detector import Detector
from models.scoring import combine
from sweep.spec.trial import Timing, TrialSpec
from sweep.store.attempts import Interrupted
from sweep.store.base import Store
from sweep.store.ledger import FIGURES, HISTORY, SCORES, WEIGHTS, Ledger, Record
from sweep.store.records import FILES, seal
from sweep.trial import metrics, process_state
from sweep.trial.build import build_detector
from sweep.trial.checkpoint import Checkpoints, State
from sweep.trial.device import device_of, hardware, peak, reset_peak
from sweep.trial.evaluation import VALIDATION, Components, Scoring, clean, legacy, loader_order, sample
from sweep.trial.features import prepare_features
from sweep.trial.figure_data import figure_data
from sweep.trial.images import Images
from sweep.trial.options import Options, Progress
from sweep.trial.selection import Selections, loss_of_normals
from sweep.trial.timing import IMAGES, time_scoring

T = TypeVar("T")
FORMAT = 1
VALIDATION_LOSS = "validation_loss"  # column of the history


class Diverged(Exception):
    """Divergence: a loss or a score is NaN or infinite, which ends the training and is a result."""


def run_trial(spec: TrialSpec, store: Store, options: Options) -> Generator[Progress, bool | None, Record]:
    """Run a trial to its result, from its resume state if there is one.

    Args:
        spec: the trial; the numbers of the result are a function of it alone.
        store: holds the dataset; receives scores, history, weights, figures.npz, resume state and result.
        options: settings that do not change a number.

    Yields:
        Progress, at least every `options.slice_seconds` while training.  Sending True makes the trial
        write its resume state and raise `Interrupted`.

    Returns:
        The result record that is in the store.

    Raises:
        DataError: the dataset is missing or damaged; the message contains the fix.
        ValueError: the spec does not fit the dataset or the detector.
        RuntimeError: the trial was given a GPU, and torch finds none.
        Interrupted: the trial was asked to stop.
    """
    with process_state.unchanged_process(spec.seed):
        run = _Run(spec, store, options)
        try:
            try:
                yield from run.train()
            except Diverged as divergence:
                run.cause = str(divergence)
            return run.publish()
        finally:
            run.checkpoints.close()


class _Run:
    """State of one running trial."""

    def __init__(self, spec: TrialSpec, store: Store, options: Options) -> None:
        self.spec, self.store, self.options = spec, store, options
        self.umask = process_state.umask()
        self.began = time.perf_counter()  # start of the trial; a resume moves it back by the seconds spent before
        self.device = device_of(spec)
        torch.set_num_threads(spec.numerics.threads)
        reset_peak(self.device)
        self.dataset: Dataset = load(store, spec.dataset, spec.preparation, options.cache, options.cache_bytes)
        validation = spec.validation and (spec.validation.normal, spec.validation.abnormal)
        self.split: Split = split(self.dataset, spec.protocol, spec.abnormal, spec.split_seed, validation or None)
        asked = int(spec.hyperparameters.get("max_test", 0))
        sampled = sample(self.split.test_labels, asked, spec.split_seed)
        self.test, self.test_labels = self.split.test[sampled], self.split.test_labels[sampled]
        self.train_images = Images(self.dataset.images, self.split.train, self.device)
        self.checkpoints = Checkpoints(store, spec.key, options.owner, options.checkpoint_seconds)
        self._begin()

    def _begin(self) -> None:
        """Set everything that training changes to its state before the first step."""
        spec = self.spec
        process_state.seed_all(spec.seed)  # must come before `build`, which draws the initial weights
        channels, size = self.dataset.images.shape[1:3]
        self.detector: Detector = build_detector(spec, channels, size).to(self.device)
        self.epochs = int(spec.hyperparameters.get("epochs", 0))
        self.batch_size = min(int(spec.hyperparameters.get("batch_size", 64)), len(self.train_images))
        self.epoch = self.step = 0  # epochs done, and steps done in the next one
        self.sums: dict[str, Tensor] = {}
        self.history: list[dict[str, float]] = []
        self.selections = Selections()
        self.evaluated = True  # False while the last trained epoch still has to be evaluated
        self.train_seconds = 0.0
        self.cause: str | None = None
        self.timings: list[dict[str, Any]] = []

    # -- training -------------------------------------------------------------------------------

    def train(self) -> Generator[Progress, bool | None, None]:
        state = self.checkpoints.load()
        goes_on = state is not None and self._is_restored(state)
        if self.spec.timing is None:  # times include the features
            for _ in prepare_features(self.detector, self.dataset, self.device, self.options.cache_bytes):
                if (yield Progress(0, 0, 0, 0)):
                    raise Interrupted  # what was computed is in the node's cache
        if not goes_on and "epochs" not in self.spec.hyperparameters:
            began = time.perf_counter()
            self.detector.fit(self.train_images.whole())
            self.train_seconds = time.perf_counter() - began
        if self.spec.timing is not None:
            yield from self.time_scoring(self.spec.timing)
            return
        if not self.evaluated or self.epochs == 0:
            yield from self.evaluate()
        if self._stops_early():
            return
        sliced = time.perf_counter()
        while self.epoch < self.epochs:
            began = time.perf_counter()
            self.detector.begin_epoch(self.epoch)
            images = self.train_images.reorder(self._order())
            steps = len(images) // self.batch_size
            while self.step < steps:
                batch = images[self.step * self.batch_size : (self.step + 1) * self.batch_size]
                losses = self.detector.train_step(self.detector.normalise(batch))
                for name, loss in losses.items():
                    self.sums[name] = self.sums.get(name, 0.0) + loss.double()
                self.step += 1
                now = time.perf_counter()
                if now - sliced >= self.options.slice_seconds and self.step < steps:
                    self.train_seconds += now - began
                    self._checkpoint(asked=(yield Progress(self.epoch, self.epochs, self.step, steps)))
                    began = sliced = time.perf_counter()
            self._close_epoch(steps)
            self.train_seconds += time.perf_counter() - began
            every = 1 if self._may_stop_early else self.spec.eval_every
            if self.epoch == self.epochs or (every and self.epoch % every == 0):
                yield from self.evaluate()
                if self._stops_early():
                    return
            if self.epoch < self.epochs:
                asked = None
                if time.perf_counter() - sliced >= self.options.slice_seconds:
                    asked = yield Progress(self.epoch, self.epochs, 0, steps)
                    sliced = time.perf_counter()
                self._checkpoint(asked=asked)

    def _order(self) -> npt.NDArray[np.int64]:
        """Return a permutation of all training images for this epoch, which depends only on seed and epoch."""
        return np.random.RandomState([self.spec.seed, self.epoch]).permutation(len(self.train_images))

    def _close_epoch(self, steps: int) -> None:
        means = {name: total.item() / steps for name, total in self.sums.items()}
        self.epoch, self.step, self.sums = self.epoch + 1, 0, {}
        self.history.append({"epoch": self.epoch, **means, **self.detector.counters()})
        bad = [name for name, value in means.items() if not math.isfinite(value)]
        if bad:
            raise Diverged(f"loss {', '.join(bad)} is not finite in epoch {self.epoch}")

    # -- evaluation -----------------------------------------------------------------------------

    def evaluate(self) -> Generator[Progress, bool | None, None]:
        """Score validation and test samples after this epoch, and keep the scores that any selection needs.

        After an interruption it starts again: the resume state is that of the trained epoch.
        """
        self.evaluated = False
        scored: dict[str, Components] = {}
        if len(self.split.validation):
            validation = Images(self.dataset.images, self.split.validation, self.device)
            scored[VALIDATION] = yield from self._pace(clean(self.detector, validation))
        if self.spec.evaluations:
            images = Images(self.dataset.images, self.test, self.device)
            for evaluation in self.spec.evaluations:
                if evaluation != "clean" and "clean" in scored and not self.detector.normalises_by_batch:
                    scored[evaluation] = scored["clean"]  # scoring again may take hours, with the same scores
                else:
                    scored[evaluation] = yield from self._pace(self._scoring(images, evaluation))
        aurocs = {}
        for name, components in scored.items():
            bad = [part for part, values in components.items() if not np.isfinite(values).all()]
            if bad:
                raise Diverged(f"score component {', '.join(bad)} is not finite after epoch {self.epoch}")
            aurocs[name] = metrics.auroc(self._labels(name), combine(components, self.options.lambda_default))
        row = {f"{'test' if name == 'clean' else name}_auroc": value for name, value in aurocs.items()}
        loss = None
        if VALIDATION in scored:
            loss = row[VALIDATION_LOSS] = loss_of_normals(scored[VALIDATION], self.split.validation_labels)
        if self.history:
            self.history[-1].update(row)
        else:
            self.history.append({"epoch": self.epoch, **row})
        self.selections.take(self.epoch, scored, aurocs, loss)
        self.evaluated = True

    def time_scoring(self, timing: Timing) -> Generator[Progress, bool | None, None]:
        """Measure the times of scoring test images.  After an interruption it starts again."""
        images = self.dataset.images.view(np.ndarray)[self.test[:IMAGES]]
        self.timings = yield from self._pace(time_scoring(self.detector, images, timing, self.device))

    def _pace(self, scoring: Generator[None, None, T]) -> Generator[Progress, bool | None, T]:
        """Run a scoring to its end, and yield `Progress` every `options.slice_seconds`."""
        sliced = time.perf_counter()
        while True:
            try:
                next(scoring)
            except StopIteration as ended:
                result: T = ended.value
                return result
            if time.perf_counter() - sliced >= self.options.slice_seconds:
                self._checkpoint(asked=(yield Progress(self.epoch, self.epochs, 0, 0)))
                sliced = time.perf_counter()

    def _scoring(self, images: Images, evaluation: str) -> Scoring:
        if evaluation == "clean":
            return clean(self.detector, images)
        return legacy(self.detector, images, loader_order(evaluation, self.test_labels, self.spec.split_seed))

    def _labels(self, evaluation: str) -> npt.NDArray[Any]:
        return self.split.validation_labels if evaluation == VALIDATION else self.test_labels

    @property
    def _may_stop_early(self) -> bool:
        return bool(self.spec.hyperparameters.get("early_stopping")) and len(self.split.validation) > 0

    def _stops_early(self) -> bool:
        """Return True if the validation AUROC has begun to fall, or the loss to rise, and the detector stops then."""
        if not self._may_stop_early:
            return False
        validation = self.spec.validation
        by_loss = validation is not None and validation.stop_on == "loss"
        name, sign = (VALIDATION_LOSS, 1) if by_loss else ("validation_auroc", -1)
        seen = [sign * row[name] for row in self.history if name in row]
        return len(seen) > 1 and seen[-1] > seen[-2]

    # -- resume state ---------------------------------------------------------------------------

    def _checkpoint(self, *, asked: bool | None) -> None:
        """Write the resume state: in the background if it is due, or at once before a stop that was asked for."""
        untimed = self.spec.timing is None  # a background write would disturb the times
        if asked or (untimed and self.step == 0 and self.checkpoints.due):
            os.umask(self.umask)  # a detector may have changed it, and what is stored must be readable
            self.checkpoints.write(self._state())
        if asked:
            self.checkpoints.finish()
            raise Interrupted

    def _state(self) -> State:
        cuda = [torch.cuda.get_rng_state(self.device)] if self.device.type == "cuda" else []
        return {
            "epoch": self.epoch,
            "step": self.step,
            "sums": dict(self.sums),
            "history": [dict(row) for row in self.history],
            "chosen": self.selections.state(),
            "evaluated": self.evaluated,
            "train_seconds": self.train_seconds,
            "seconds": time.perf_counter() - self.began,
            "random": [torch.get_rng_state(), *cuda],
            "random_of_python": process_state.python_random_states(),
            "detector": self.detector.training_state(),
        }

    def _is_restored(self, state: State) -> bool:
        """Return True if the trial goes on from a state; False if the state does not fit: the trial starts again."""
        began = self.began
        try:
            self._restore(state)
        except Exception as error:  # noqa: BLE001  (a state of other code may fail anywhere)
            self.checkpoints.discard(f"{type(error).__name__}: {error}")
            self.began = began
            self._begin()  # a part of the state may be restored already
            return False
        return True

    def _restore(self, state: State) -> None:
        if not (0 <= state["epoch"] <= self.epochs and state["step"] >= 0):
            raise ValueError(f"epoch {state['epoch']}, step {state['step']} of {self.epochs} epochs")
        self.detector.load_training_state(state["detector"])
        self.epoch, self.step = state["epoch"], state["step"]
        self.sums = {name: total.to(self.device) for name, total in state["sums"].items()}
        self.history = [dict(row) for row in state["history"]]
        self.selections.load_state(state["chosen"])
        self.evaluated = state["evaluated"]
        self.train_seconds = state["train_seconds"]
        self.began -= state["seconds"]
        torch.set_rng_state(state["random"][0])
        if "random_of_python" in state:  # states before 2026-12 have none
            process_state.set_python_random_states(state["random_of_python"])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(state["random"][1], self.device)

    # -- result ---------------------------------------------------------------------------------

    def publish(self) -> Record:
        """Store scores, history, weights and data for figures, then the result; then delete the resume state."""
        os.umask(self.umask)
        key = self.spec.key
        ledger, files = Ledger(self.store, sweep=""), dict[str, bytes]()
        if self.selections.chosen and self.cause is None:
            files[SCORES] = _parquet(self._scores())
            weights = {name: tensor.contiguous() for name, tensor in self.detector.state_dict().items()}
            if self.options.keep_weights and self.spec.evaluations:
                if weights:
                    files[WEIGHTS] = safetensors.torch.save(weights)
                figures = self._figures()
                if figures is not None:
                    files[FIGURES] = figures
        if self.epochs:
            files[HISTORY] = _parquet(pa.Table.from_pylist(self._history()))
        hashes = {name: ledger.put_file(key, name, data) for name, data in files.items()}
        result = seal({**self._result(), FILES: hashes})
        if not ledger.put_result(key, result):
            result = ledger.result(key) or result
        self.checkpoints.remove()
        return result

    def _figures(self) -> bytes | None:
        """Return figures.npz for the final weights."""
        last = self.selections.chosen["last"].get("clean")
        if last is None:
            return None
        return figure_data(
            self.detector,
            self.dataset.images,
            self.test,
            self.test_labels,
            combine(last["components"], self.options.lambda_default),
            epoch=self.epoch,
            seed=self.spec.split_seed,
            device=self.device,
        )

    def _history(self) -> list[dict[str, float]]:
        names = dict.fromkeys(name for row in self.history for name in row)
        return [{name: row.get(name, math.nan) for name in names} for row in self.history]

    def _scores(self) -> pa.Table:
        test = self.dataset.sample_ids[self.test], self.test_labels
        validation = self.dataset.sample_ids[self.split.validation], self.split.validation_labels
        return self.selections.scores(test, validation, self.options.lambda_default)

    def _result(self) -> Record:
        images = self.epoch * (len(self.train_images) // self.batch_size) * self.batch_size
        lam, chosen = self.options.lambda_default, self.selections
        return {
            "format": FORMAT,
            "key": self.spec.key,
            "spec": self.spec.to_dict(),
            "status": "ok" if self.cause is None else "diverged",
            "cause": self.cause,
            "metrics": [] if self.cause else chosen.metrics(self.test_labels, lam),
            "validation": None if self.cause else chosen.validation(self.split.validation_labels, lam),
            "lam": lam,
            "parameters": sum(p.numel() for p in self.detector.parameters() if p.requires_grad),
            "epochs_trained": self.epoch,
            "seconds": time.perf_counter() - self.began,
            "train_seconds": self.train_seconds,
            "images_per_second": images / self.train_seconds if images and self.train_seconds else None,
            "peak_bytes": peak(self.device),
            "device": self.spec.device,
            "hardware": hardware(self.device),
            "torch": torch.__version__,
            "fingerprint": self.dataset.fingerprint,
            "split_hash": self.split.hash,
            "copies": count_trained_on(self.dataset, self.split.train, self.test),
            "attempts": self.options.attempts,
            "host": platform.node(),
            **{name: self.options.provenance.get(name) for name in ("commit", "dirty", "code", "ray", "gpus")},
            **({} if self.spec.timing is None else {"timings": self.timings}),
        }


def _parquet(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()
