"""Selection of the reported epochs: the last, the best on validation by two criteria, the best on the test set."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from models.scoring import LAMBDAS, combine
from sweep.trial.evaluation import VALIDATION, Components
from sweep.trial.metrics import auroc, evaluate


def loss_of_normals(components: Components, labels: npt.NDArray[Any]) -> float:
    """Return the mean reconstruction error of the normal samples: a criterion without labels of the abnormal class.

    It is the mean of the component "reconstruction", or of the score if that has one component.

    Args:
        components: score components, [N] each.
        labels: 0 normal, 1 abnormal, [N].
    """
    errors = components["reconstruction" if "reconstruction" in components else "score"]
    return float(errors[labels == 0].mean(dtype=np.float64))


Samples = tuple[npt.NDArray[Any], npt.NDArray[Any]]  # ids and labels, [N] each


class Selections:
    """Scores of the epochs that some selection reports.

    Attributes:
        chosen: by selection, then by evaluation: "epoch", "auroc" and "components"; under `VALIDATION` also "loss".
    """

    def __init__(self) -> None:
        self.chosen: dict[str, dict[str, dict[str, Any]]] = {}

    def take(
        self, epoch: int, scored: Mapping[str, Components], aurocs: Mapping[str, float], loss: float | None = None
    ) -> None:
        """Record the scores of an epoch, and update the best epochs.

        Args:
            epoch: number of epochs that were trained.
            scored: score components by evaluation; those of the validation samples under `VALIDATION`.
            aurocs: AUROC by the same names.
            loss: result of `loss_of_normals` for the validation samples; None without validation.
        """
        entries = {name: {"epoch": epoch, "auroc": aurocs[name], "components": parts} for name, parts in scored.items()}
        if loss is not None:
            entries[VALIDATION]["loss"] = loss
        tested = [name for name in scored if name != VALIDATION]
        self.chosen["last"] = entries
        if tested and VALIDATION in aurocs and aurocs[VALIDATION] > self._best("val", VALIDATION):
            self.chosen["val"] = entries
        if tested and loss is not None and ("val_normal" not in self.chosen or loss < self._lowest_loss()):
            self.chosen["val_normal"] = entries
        for name in tested:  # each evaluation has its own best epoch, as in the published code
            if aurocs[name] > self._best("oracle", name):
                self.chosen.setdefault("oracle", {})[name] = entries[name]

    def _best(self, selection: str, evaluation: str) -> float:
        entry = self.chosen.get(selection, {}).get(evaluation)
        return -1.0 if entry is None else float(entry["auroc"])

    def _lowest_loss(self) -> float:
        return float(self.chosen["val_normal"][VALIDATION]["loss"])

    def each(self) -> Iterator[tuple[str, str, dict[str, Any]]]:
        """Yield (selection, evaluation, entry of `chosen`)."""
        for selection, entries in self.chosen.items():
            for evaluation, entry in entries.items():
                yield selection, evaluation, entry

    def state(self) -> dict[str, Any]:
        """Return nested plain values and tensors, for a resume state."""
        return {
            selection: {
                name: {**e, "components": {n: torch.from_numpy(v) for n, v in e["components"].items()}}
                for name, e in entries.items()
            }
            for selection, entries in self.chosen.items()
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore what `state` returned.

        Raises:
            ValueError: a version without the selection `val_normal` wrote it.
        """
        if any("loss" not in entries[VALIDATION] for entries in state.values() if VALIDATION in entries):
            raise ValueError("the losses of the validation samples are missing")
        self.chosen = {
            selection: {
                name: {**e, "components": {n: v.numpy() for n, v in e["components"].items()}}
                for name, e in entries.items()
            }
            for selection, entries in state.items()
        }

    def metrics(self, labels: npt.NDArray[Any], lam: float | None) -> list[dict[str, Any]]:
        """Return the metrics of the test samples at lambda, one entry for each selection and evaluation.

        Args:
            labels: labels of the test samples, 0 normal, 1 abnormal.
            lam: lambda; None for a score of one component.

        Returns:
            Entries with selection, evaluation, epoch and the fields of `Metrics`.
        """
        return [
            {"selection": selection, "evaluation": evaluation, "epoch": entry["epoch"]}
            | vars(evaluate(labels, combine(entry["components"], lam)))
            for selection, evaluation, entry in self.each()
            if evaluation != VALIDATION
        ]

    def validation(self, labels: npt.NDArray[Any], lam: float | None) -> dict[str, Any] | None:
        """Return the validation AUROC after the last epoch, by lambda; None without validation samples.

        Args:
            labels: labels of the validation samples, 0 normal, 1 abnormal.
            lam: lambda that is added to `LAMBDAS`; None for a score of one component.

        Returns:
            {"epoch": last epoch, "lambda": lambdas, "auroc": AUROC at each}.
        """
        last = self.chosen.get("last", {}).get(VALIDATION)
        if last is None:
            return None
        lambdas: list[float | None] = [None] if lam is None else [*sorted({*LAMBDAS, lam})]
        aurocs = [auroc(labels, combine(last["components"], value)) for value in lambdas]
        return {"epoch": last["epoch"], "lambda": lambdas, "auroc": aurocs}

    def scores(self, test: Samples, validation: Samples, lam: float | None) -> pa.Table:
        """Return scores.parquet as a table.

        Its columns are sample_id, label, part, evaluation, epoch, score, and each score component.  It
        contains the chosen epochs only.

        Args:
            test, validation: ids and labels of the samples.
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
        """Yield evaluation, epoch and components, once if several selections chose the same epoch."""
        chosen = {(evaluation, entry["epoch"]): entry["components"] for _, evaluation, entry in self.each()}
        yield from ((evaluation, epoch, components) for (evaluation, epoch), components in chosen.items())
