"""The copy of a launch's code: what it contains, what its hash depends on, and that edits do not reach a launch."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sweep.engine.code_copy import code_hash, copy_code
from sweep.spec.load import load
from sweep.spec.sweep import Sweep
from tests.support.sweeps import ROOT, command, environment, results_of, sweep, wait_until, write_config

DETECTOR = """
import time
from dataclasses import dataclass
from models.detector import Detector
from {helper} import SIGN

@dataclass(frozen=True)
class Hyperparameters:
    epochs: int = 1
    batch_size: int = 64

class Mine(Detector):
    Hyperparameters = Hyperparameters
    def step(self, batch):
        time.sleep(0.01)
        return {{"loss": batch.mean()}}
    def components(self, batch):
        return {{"score": SIGN * batch.mean((1, 2, 3))}}
"""


def write_detector(folder: Path, package: str) -> None:
    """Write a package with a detector, which imports a module from beside the package."""
    (folder / package).mkdir(parents=True)
    (folder / package / "__init__.py").write_text("")
    (folder / package / "mine.py").write_text(DETECTOR.format(helper=f"{package}_helper"))
    (folder / package / "weights.bin").write_bytes(b"weights")
    (folder / f"{package}_helper.py").write_text("SIGN = 1\n")
    (folder / "unrelated.py").write_text("")


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sweep]:
    """Yield a sweep of a user's own detector, in a folder of modules beside the store."""
    write_detector(tmp_path / "modules", "own_one")
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    config = write_config(tmp_path, [{"detectors": ["own_one.mine:Mine"], "abnormal": [0]}])
    yield load(config)
    for name in ("own_one.mine", "own_one", "own_one_helper"):
        sys.modules.pop(name, None)


def test_it_has_the_packages_of_the_project_and_what_own_detectors_import(own: Sweep, tmp_path: Path) -> None:
    digest = copy_code(own, tmp_path / "copy")
    assert {path.name for path in (tmp_path / "copy").iterdir()} == {
        "sweep", "models", "data", "own_one", "own_one_helper.py",
    }  # fmt: skip
    assert digest == code_hash(own)
    assert (tmp_path / "copy/own_one/weights.bin").read_bytes() == b"weights"
    assert (tmp_path / "copy/sweep/spec/studies/quickstart.yaml").exists()
    shown = subprocess.run(
        [sys.executable, "-c", "import sweep, models, data, own_one.mine as own; print(sweep.__file__, own.__file__)"],
        cwd=tmp_path / "copy", capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    assert all(Path(file).is_relative_to(tmp_path / "copy") for file in shown)


@pytest.mark.parametrize(
    ("file", "changes"),
    [("own_one/mine.py", True), ("own_one_helper.py", True), ("own_one/weights.bin", False), ("unrelated.py", False)],
)
def test_the_hash_depends_on_the_code_alone(file: str, changes: bool, own: Sweep, tmp_path: Path) -> None:
    before = code_hash(own)
    with open(tmp_path / "modules" / file, "a") as code:
        code.write("# changed\n")
    assert (code_hash(own) != before) == changes


def test_a_package_with_very_many_files_is_used_where_it_is(
    own: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sweep.engine.code_copy.MANY_FILES", 400)
    (tmp_path / "modules/own_one/data").mkdir()
    for number in range(401):
        (tmp_path / f"modules/own_one/data/{number}").touch()
    copy_code(own, tmp_path / "copy")
    assert not (tmp_path / "copy/own_one").exists()
    assert (tmp_path / "copy/sweep").exists()


@pytest.mark.ray
@pytest.mark.timeout(400)
def test_code_that_is_edited_during_a_launch_reaches_the_next_one_only(tmp_path: Path) -> None:
    modules = tmp_path / "modules"
    write_detector(modules, "own_two")
    path = f"{modules}:{ROOT}"
    studies = [{"detectors": ["own_two.mine:Mine"], "abnormal": [0], "seeds": 4}]
    config = write_config(tmp_path, studies, cluster={"provider": "local", "cpus": 1})
    launch = subprocess.Popen(command("launch", config, "-y"), env=environment(PYTHONPATH=path))
    wait_until(lambda: any((tmp_path / "store").glob("trials/*/result.json")), launch)
    (modules / "own_two_helper.py").write_text("SIGN = -1\n")
    assert len(results_of(tmp_path)) < 4, "the file is edited before the last trial starts"
    assert launch.wait(300) == 0
    first = results_of(tmp_path)
    aurocs = {result["metrics"][0]["auroc"] for result in first.values()}
    assert len(first) == 4
    assert len(aurocs) == 1, "all seeds were scored by the same code"
    assert len({result["code"] for result in first.values()}) == 1

    again = sweep("launch", config, "-y", "--set", "sweep.studies.0.seeds=5", PYTHONPATH=path)
    assert again.returncode == 0, again.stdout + again.stderr
    (new,) = (result for key, result in results_of(tmp_path).items() if key not in first)
    assert new["metrics"][0]["auroc"] == pytest.approx(1 - aurocs.pop(), abs=0.02), "the sign has changed"
    assert new["code"] not in {result["code"] for result in first.values()}
