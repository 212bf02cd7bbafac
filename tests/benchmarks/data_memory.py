"""Peak memory of putting and of opening a dataset that is larger than the limit.

The dataset has 2 GB of random grey images, made while they are read, so that compression does not help.
`put` and `load` run in separate processes.  Their peak resident memory is VmHWM of the kernel.
Pages of the mapped cache count only if they are touched.  Bar: 1 GB for each.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.benchmarks.measure import ROOT, arguments, bar, figure, folder, header

BAR = 1000.0  # MB
CODE = """
import sys, time
from dataclasses import replace
from pathlib import Path
import numpy as np
from data import catalog
from data.sources.base import Sample, Source
from data.storage import loader, shards
from sweep.store import open_store

SIDE = 64

def read(root):
    count = int(float(sys.argv[3]) * 1e9) // SIDE**2

    def samples(first, stop):
        random = np.random.RandomState(first)
        for at in range(first, stop):
            image = random.randint(0, 256, (1, SIDE, SIDE), np.uint8)
            yield Sample(image, at % 10, "made up", "train", f"{at:09d}", f"scan {at // 100}")

    return Source(count, samples)

verb, store, _, cache = sys.argv[1:]
sys.modules["made_up"] = sys.modules["__main__"]
catalog.DATASETS["made_up"] = replace(catalog.DATASETS["digits"], name="made_up", source="made_up")
began = time.perf_counter()
if verb == "put":
    shards.put(open_store(store), "made_up", size=SIDE, root=None)
else:
    opened = loader.load(open_store(store), "made_up", "s64-bilinear-1", Path(cache))
    print(len(opened.images), file=sys.stderr)
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(int(peak.split()[1]) * 1024 / 1e6, time.perf_counter() - began)
"""


def main() -> None:
    options = arguments(__doc__, ("gb", 2.0, "GB of pixels"))
    with folder() as scratch:
        header()
        for verb in ("put", "load"):
            peak, seconds = _peak(verb, scratch, options.gb)
            speed = f"{options.gb * 1000 / seconds:.0f} MB/s"
            figure(f"peak memory of {verb}, MB", f"{peak:.0f}, at {speed}", f"{options.gb:g} GB", bar(peak, most=BAR))


def _peak(verb: str, scratch: Path, gb: float) -> tuple[float, float]:
    """Run `put` or `load`.  Returns its peak memory in MB, and its seconds."""
    words = [sys.executable, "-c", CODE, verb, str(scratch / "store"), str(gb), str(scratch / "cache")]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    peak, seconds = map(float, done.stdout.split())
    return peak, seconds


if __name__ == "__main__":
    main()
