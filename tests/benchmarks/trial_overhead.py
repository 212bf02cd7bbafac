"""Time that resume states and evaluations add to a trial's training loop.

GANomaly on 70,000 images of 32 x 32, split like MNIST.  Its IDX files have random pixels, or are the real ones of
--root.  `run_trial` runs it in this process on one core.  Reference: the same trial without resume states, scored
only after its last epoch.  In turn with it, repeated: with a resume state after every epoch, and with an evaluation
after every epoch.  The cost of one state does not depend on how often it is written.  So the cost of a state every
60 s (the default), or every epoch if that is longer, is computed from it.  The comparison uses CPU seconds of the
process with its writing thread, which other work on the machine hardly changes; wall-clock seconds are also printed.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np
import torch

from data.storage.shards import put
from sweep.plan.expand import expand
from sweep.spec.load import load
from sweep.spec.trial import TrialSpec
from sweep.store import open_store
from sweep.store.base import Store
from sweep.trial.options import Options
from sweep.trial.run import run_trial
from tests.benchmarks.measure import arguments, bar, figure, folder, header, middle
from tests.support.sweeps import platform, write_config

DEFAULT_SECONDS = 60.0
CHECKPOINT_BAR, EVALUATION_BAR = 3.0, 10.0  # per cent
NEVER = 1e9
WAYS = {"plain": (NEVER, 0), "resume states": (0.0, 0), "evaluations": (NEVER, 1)}


def main() -> None:
    options = arguments(
        __doc__,
        ("n", 3, "repetitions"),
        ("epochs", 3, "epochs of a trial, 2 at least"),
        ("width", 16, "channels of GANomaly's first layer; 64 is the paper's"),
        ("root", "", "folder of the real MNIST"),
    )
    settings = {"epochs": options.epochs, "width": options.width}
    study = {"detectors": ["ganomaly"], "abnormal": [0], "hyperparameters": {"ganomaly": settings}}
    taken: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    with folder() as scratch:
        header()
        study["datasets"] = ["mnist"]
        sweep = load(write_config(scratch, [study], data={"size": 32, "cache": str(scratch / "cache")}), [])
        store = open_store(sweep.storage)
        put(store, "mnist", size=32, root=Path(options.root) if options.root else _made_up(scratch / "root"))
        spec = expand(sweep, platform(sweep)).fixed[0].spec
        brief = replace(spec, hyperparameters={**spec.hyperparameters, "epochs": 0})
        _run(brief, store, scratch, NEVER)  # decodes the dataset
        for n in range(options.n):
            for way, (every, evaluations) in WAYS.items():
                taken[way].append(_run(replace(spec, seed=n, eval_every=evaluations), store, scratch, every))
    print(f"{'way':14} wall s, CPU s of each repetition")
    for way, found in taken.items():
        print(f"{way:14} " + "  ".join(f"{wall:.1f}, {cpu:.1f}" for wall, cpu in found))
    cpu = {way: [seconds for _, seconds in found] for way, found in taken.items()}
    state, evaluation = (
        median((c - p) / (options.epochs - 1) for c, p in zip(cpu[way], cpu["plain"], strict=True))
        for way in ("resume states", "evaluations")
    )
    epoch = (median(cpu["plain"]) - evaluation) / options.epochs
    reference = f"plain {middle(cpu['plain'], 'CPU s')}, {epoch:.1f} an epoch"
    share = 100 * state / max(DEFAULT_SECONDS, epoch)
    figure("resume states, %", f"{state:.3f} CPU s each", reference, bar(share, most=CHECKPOINT_BAR))
    share = 100 * evaluation / epoch
    figure("evaluation, %", f"{evaluation:.3f} CPU s each", reference, bar(share, most=EVALUATION_BAR))


def _run(spec: TrialSpec, store: Store, scratch: Path, checkpoint_seconds: float) -> tuple[float, float]:
    """Run a trial, and delete its result.  Returns wall-clock and CPU seconds."""
    options = Options(scratch / "cache", checkpoint_seconds=checkpoint_seconds, lambda_default=0.0)
    torch.set_num_threads(1)
    wall, cpu = time.perf_counter(), time.process_time()
    list(run_trial(spec, store, options))
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    store.delete_tree(f"trials/{spec.key}")
    return wall, cpu


def _made_up(root: Path) -> Path:
    """Write random pixels and labels into files with MNIST's names."""
    random = np.random.RandomState(0)
    root.mkdir()
    for name, count in (("train", 60_000), ("t10k", 10_000)):
        pixels = random.randint(0, 256, (count, 28, 28)).astype(np.uint8)
        for kind, array in (
            ("images-idx3", pixels),
            ("labels-idx1", random.randint(0, 10, count).astype(np.uint8)),
        ):
            start = bytes((0, 0, 8, array.ndim)) + np.array(array.shape, ">u4").tobytes()
            (root / f"{name}-{kind}-ubyte").write_bytes(start + array.tobytes())
    return root


if __name__ == "__main__":
    main()
