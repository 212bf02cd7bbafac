"""Speed of putting and opening datasets, as ratios within one run.

- `put` of MNIST and CIFAR-10 into a folder (--mnist, --cifar10), compared with torchvision iterating the same images.
  torchvision's checksums are left out, so that a copy with other checksums can be read, too.
- Cold open of the largest of these datasets from SeaweedFS on loopback, in a process that has opened nothing before:
  fetch, check, decode, write to the cache.  Without --mnist and --cifar10 it is digits at 128 x 128.  Reference:
  plain GETs of the same objects by boto3, one after the other.  Both in turn, medians; bar: half its bandwidth.
- Warm open: the time that the second trial on a node waits, without its imports, and its memory while two others
  have the dataset open, too.  The memory is the proportional set size (PSS) of all three processes, after each has
  read every image, compared with the size of the dataset.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from data.catalog import dataset
from data.storage.loader import load
from data.storage.manifest import Manifest
from data.storage.shards import put, shard_paths
from sweep.store import open_store
from sweep.store.base import Store
from tests.benchmarks.measure import ROOT, arguments, bar, figure, folder, header, middle, seconds
from tests.support.s3_servers import seaweed_server

WARM_BAR = 0.2  # seconds
READER = """
import json, sys, time
from pathlib import Path
from data.storage.loader import load
from sweep.store import open_store

def pss():
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return {line.split()[0].strip(":"): int(line.split()[1]) * 1024 for line in lines[1:]}

url, name, preparation, cache = sys.argv[1:]
store = open_store(url)
store.exists("nothing")  # a trial has asked its store for a result before, so its client exists
before = pss()
began = time.perf_counter()
dataset = load(store, name, preparation, Path(cache))
took = time.perf_counter() - began
total = int(dataset.images.sum())
print("open", flush=True)
sys.stdin.readline()
after = pss()
print(json.dumps({"seconds": took, "total": total, "pss": after["Pss"] - before["Pss"],
                  "private": after["Private_Dirty"] - before["Private_Dirty"]}), flush=True)
sys.stdin.readline()
"""


def main() -> None:
    options = arguments(
        __doc__,
        ("n", 3, "repetitions"),
        ("mnist", "", "folder of MNIST in torchvision's layout"),
        ("cifar10", "", "folder of CIFAR-10 in torchvision's layout"),
    )
    roots = {name: Path(root) for name in ("mnist", "cifar10") if (root := getattr(options, name))}
    with folder() as scratch:
        header()
        for name, root in roots.items():
            _put(name, root, scratch, options.n)
        name, size = (list(roots)[-1], 32) if roots else ("digits", 128)
        _open(name, size, roots.get(name), scratch, options.n)


def _put(name: str, root: Path, scratch: Path, n: int) -> None:
    ours, theirs = [], []
    for number in range(n):
        store = open_store(str(scratch / f"{name}-{number}"))
        ours.append(seconds(lambda store=store: put(store, name, size=32, root=root)))  # type: ignore[misc]
        theirs.append(seconds(lambda: _iterate(name, root)))
    figure(
        f"put of {name}, times as fast",
        middle(ours),
        f"torchvision iterates it in {middle(theirs)}",
        bar(median(theirs) / median(ours), least=1.0),
    )


def _iterate(name: str, root: Path) -> None:
    from torchvision import datasets

    found: Any = {"mnist": datasets.MNIST, "cifar10": datasets.CIFAR10}[name]
    if name == "cifar10":
        found = type("Unchecked", (found,), {"_check_integrity": _trusted, "_load_meta": _classes})
    for train in (True, False):
        for _ in found(root=str(root), train=train):
            pass


def _trusted(self: Any) -> bool:
    return True


def _classes(self: Any) -> None:
    self.classes = list(dataset("cifar10").classes)


def _open(name: str, size: int, root: Path | None, scratch: Path, n: int) -> None:
    with seaweed_server(scratch) as server:
        os.environ.update(server.environment())
        store = open_store(f"s3://{server.bucket}/benchmark")
        manifest = put(store, name, size=size, root=root)
        stored = sum(shard.bytes for shard in manifest.shards)
        plain, cold = [], []
        for number in range(n):
            plain.append(seconds(lambda: [store.get(path) for path in shard_paths(manifest)]))
            cold.append(_timed(_opening(store, manifest, scratch / f"cache-{number}")))
        figure(
            f"cold open of {name}, share of a GET's bandwidth",
            f"{middle(cold)}, {stored / median(cold) / 1e6:.0f} MB/s",
            f"GET of {stored / 1e6:.0f} MB: {middle(plain)}, {stored / median(plain) / 1e6:.0f} MB/s",
            bar(median(plain) / median(cold), least=0.5),
        )
        _warm(store, manifest, scratch / "cache-0", n)


def _opening(store: Store, manifest: Manifest, cache: Path) -> Callable[[], object]:
    return lambda: load(store, manifest.name, manifest.preparation, cache)


def _timed(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def _warm(store: Store, manifest: Manifest, cache: Path, n: int) -> None:
    words = [sys.executable, "-c", READER, store.url, manifest.name, manifest.preparation, str(cache)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    readers = []
    for _ in range(max(n, 3)):
        readers.append(subprocess.Popen(words, cwd=ROOT, text=True, **pipes))  # type: ignore[call-overload]
        assert readers[-1].stdout.readline() == "open\n"
    found = []
    for reader in readers:  # one by one; the others keep their pages until all have answered
        reader.stdin.write("report\n")
        reader.stdin.flush()
        found.append(json.loads(reader.stdout.readline()))
    for reader in readers:
        reader.communicate()
    warm = [one["seconds"] for one in found]
    figure(f"warm open of {manifest.name}, s", middle(warm), "the first open", bar(median(warm), most=WARM_BAR))
    pixels = manifest.rows * manifest.shape[0] * manifest.shape[1] * manifest.shape[2]
    total = sum(one["pss"] for one in found)
    figure(
        f"PSS that {len(readers)} processes gain by it, of its size",
        f"{total / 1e6:.0f} MB together, {max(one['private'] for one in found) / 1e6:.1f} MB private at most",
        f"{pixels / 1e6:.0f} MB of pixels",
        bar(total / pixels, most=1.5),
    )


if __name__ == "__main__":
    main()
