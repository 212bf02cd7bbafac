"""A finished sweep with invented scores: all that a report reads, without training."""

from __future__ import annotations

import io
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from models.scoring import combine
from sweep.plan.expand import Planned, expand
from sweep.plan.platform import Platform
from sweep.plan.status import read_status
from sweep.report.report import Report
from sweep.spec.load import load
from sweep.spec.sweep import Sweep
from sweep.store import open_store
from sweep.store.base import Store
from sweep.store.ledger import SCORES, Ledger
from sweep.store.local import LocalStore
from sweep.store.records import FILES
from sweep.trial.metrics import evaluate
from tests.support.sweeps import platform, write_config

SAMPLES = 60
STUDY = {"detectors": ["ganomaly", "knn"], "abnormal": [0, 1, 2], "seeds": 3}
STRENGTH = {"ganomaly": 0.6, "knn": 1.4}


class MadeUp:
    """A finished sweep in a folder.

    Attributes:
        config, sweep, platform, ledger: parts of the sweep.
        planned: its trials.
    """

    def __init__(self, folder: Path, **study: Any) -> None:
        self.config = write_config(folder, [{**STUDY, **study}])
        self.sweep: Sweep = load(self.config)
        self.platform: Platform = platform(self.sweep)
        self.store: Store = open_store(self.sweep.storage)
        assert isinstance(self.store, LocalStore)
        self.ledger = Ledger(self.store, self.sweep.name)
        self.planned = expand(self.sweep, self.platform).fixed
        for planned in self.planned:
            self.finish(planned)

    def finish(self, planned: Planned) -> None:
        """Store scores and a result of a trial."""
        table, lam = made_up_scores(planned), planned.lam
        sink = io.BytesIO()
        pq.write_table(table, sink)
        scores = self.ledger.put_file(planned.key, SCORES, sink.getvalue())
        metrics = [
            {"selection": selection, "evaluation": "clean", "epoch": 2}
            | vars(evaluate(table["label"].to_numpy(), table["score"].to_numpy()))
            for selection in ("last", "oracle")
        ]
        self.ledger.put_result(
            planned.key,
            {
                "format": 1, "key": planned.key, "spec": planned.spec.to_dict(), "status": "ok", "cause": None,
                "metrics": metrics, "validation": None, "lam": lam, "parameters": 1000, "epochs_trained": 2,
                "seconds": 36.0, "train_seconds": 30.0, "images_per_second": 10.0, "peak_bytes": 1, "device": "cpu",
                "torch": "2.14.0", "fingerprint": "f", "split_hash": "h", "attempts": 0, "host": "here",
                "hardware": "A Processor", "commit": "c", "dirty": False, "ray": "2.60.0", "gpus": 0.0,
                FILES: {SCORES: scores},
            },
        )  # fmt: skip

    def launch(self) -> None:
        """Record a launch of the sweep."""
        self.ledger.put_spec(
            {"sweep": self.sweep.model_dump(mode="json"), "platform": asdict(self.platform), "time": 1.0}
        )

    def reporting(self) -> Report:
        return Report(read_status(expand(self.sweep, self.platform), self.ledger), self.ledger)

    def bundle(self, path: Path) -> Path:
        self.reporting().bundle(path, self.sweep, self.platform, "sweep report")
        return path


def made_up_scores(planned: Planned) -> pa.Table:
    """Return invented scores of the same samples for every seed and detector of a class.

    A part of each score is the same for all of them, so that their errors are correlated.
    """
    abnormal = int(planned.abnormal)
    labels = np.random.default_rng(abnormal).permutation(np.arange(SAMPLES) % 3 == 0).astype("uint8")
    shared = np.random.default_rng([abnormal, 1]).normal(size=SAMPLES)
    own = np.random.default_rng([abnormal, planned.seed, len(planned.detector)]).normal(size=SAMPLES)
    values = STRENGTH[planned.detector] * labels + 0.7 * shared + 0.7 * own
    columns: dict[str, Any] = {
        "sample_id": [f"test/{number}" for number in range(SAMPLES)],
        "label": labels,
        "part": ["test"] * SAMPLES,
        "evaluation": ["clean"] * SAMPLES,
        "epoch": [2] * SAMPLES,
    }
    if planned.lam is None:
        return pa.table(columns | {"score": values})
    parts = {"reconstruction": np.abs(own).astype("float32"), "latent": values.astype("float32")}
    return pa.table(columns | {"score": combine(parts, planned.lam)} | parts)
