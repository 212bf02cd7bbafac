"""Which epochs of a trial are reported: the last, the best on validation, the best on the test set itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy.typing as npt
import pyarrow as pa
import torch

from models.scoring import LAMBDAS, combine
from sweep.trial.evaluation import VALIDATION, Components
from sweep.trial.metrics import auroc, evaluate

Samples = tuple[npt.NDArray[Any], npt.NDArray[Any]]  # ids and labels, [N] each


class Selections:
    """Scores of the epochs that some selection reports, by selection and evaluation.

    Attributes:
        chosen: by selection, then by evaluation: "epoch", "auroc" and "components".
    """

    def __init__(self) -> None:
        self.chosen: dict[str, dict[str, dict[str, Any]]] = {}

    def take(self, epoch: int, scored: Mapping[str, Components], aurocs: Mapping[str, float]) -> None:
        """Take in what was scored after an epoch: by evaluation, and as `VALIDATION` where there is one."""
        entries = {name: {"epoch": epoch, "auroc": aurocs[name], "components": parts} for name, parts in scored.items()}
        tested = [name for name in scored if name != VALIDATION]
        self.chosen["last"] = entries
        if tested and VALIDATION in aurocs and aurocs[VALIDATION] > self._best("val", VALIDATION):
            self.chosen["val"] = entries
        for name in tested:  # each evaluation has a best epoch of its own, as published code has
            if aurocs[name] > self._best("oracle", name):
                self.chosen.setdefault("oracle", {})[name] = entries[name]

    def _best(self, selection: str, evaluation: str) -> float:
        entry = self.chosen.get(selection, {}).get(evaluation)
        return -1.0 if entry is None else float(entry["auroc"])

    def each(self) -> Iterator[tuple[str, str, dict[str, Any]]]:
        """(selection, evaluation, entry)."""
        for selection, entries in self.chosen.items():
            for evaluation, entry in entries.items():
                yield selection, evaluation, entry

    def state(self) -> dict[str, Any]:
        """As nested plain values and tensors, for a resume state."""
        return {
            selection: {
                name: {**e, "components": {n: torch.from_numpy(v) for n, v in e["components"].items()}}
                for name, e in entries.items()
            }
            for selection, entries in self.chosen.items()
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state`."""
        self.chosen = {
            selection: {
                name: {**e, "components": {n: v.numpy() for n, v in e["components"].items()}}
                for name, e in entries.items()
            }
            for selection, entries in state.items()
        }

    def metrics(self, labels: npt.NDArray[Any], lam: float | None) -> list[dict[str, Any]]:
        """One entry a selection and evaluation: its epoch, and the metrics of the test samples at lambda.

        Args:
            labels: of the test samples, 0 normal, 1 abnormal.
            lam: lambda; None for a score of one component.
        """
        return [
            {"selection": selection, "evaluation": evaluation, "epoch": entry["epoch"]}
            | vars(evaluate(labels, combine(entry["components"], lam)))
            for selection, evaluation, entry in self.each()
            if evaluation != VALIDATION
        ]

    def validation(self, labels: npt.NDArray[Any], lam: float | None) -> dict[str, Any] | None:
        """Validation AUROC after the last epoch over lambda, `lam` among them; None without validation."""
        last = self.chosen.get("last", {}).get(VALIDATION)
        if last is None:
            return None
        lambdas: list[float | None] = [None] if lam is None else [*sorted({*LAMBDAS, lam})]
        aurocs = [auroc(labels, combine(last["components"], value)) for value in lambdas]
        return {"epoch": last["epoch"], "lambda": lambdas, "auroc": aurocs}

    def scores(self, test: Samples, validation: Samples, lam: float | None) -> pa.Table:
        """scores.parquet: sample_id, label, part, evaluation, epoch, score, and each component of chosen epochs.

        Args:
            test, validation: ids and labels.
            lam: lambda of `score`; None for a score of one component.
        """
        tables = []
        for evaluation, epoch, components in self._distinct():
            part = VALIDATION if evaluation == VALIDATION else "test"
            ids, labels = validation if part == VALIDATION else test
            columns = {
                "sample_id": pa.array(ids),
                "label": pa.array(labels),
                "part": pa.repeat(part, len(ids)),
                "evaluation": pa.repeat("clean" if part == VALIDATION else evaluation, len(ids)),
                "epoch": pa.repeat(epoch, len(ids)),
                "score": pa.array(combine(components, lam)),
            }
            parts = {name: pa.array(values) for name, values in components.items() if name != "score"}
            tables.append(pa.table(columns | parts))
        return pa.concat_tables(tables)

    def _distinct(self) -> Iterator[tuple[str, int, Components]]:
        """Evaluation, epoch and components, once where several selections chose the same epoch."""
        found = {(evaluation, entry["epoch"]): entry["components"] for _, evaluation, entry in self.each()}
        yield from ((evaluation, epoch, components) for (evaluation, epoch), components in found.items())
