"""Odd, damaged and hostile inputs: each ends in one short text and exit code 0 or 1, never in a traceback or a hang.

Small files are in `corpus`; what is large or not text is made here.  Whoever finds another input that fails adds it.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from sweep.cli.app import main
from tests.support.inputs import (
    Run,
    assert_refused,
    assert_said,
    odd_copies,
)
from tests.support.made_up import MadeUp
from tests.support.sweeps import sweep, write_config

CORPUS = sorted((Path(__file__).parent / "corpus").iterdir())


# -- YAML -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.name)
@pytest.mark.parametrize("verb", ["plan", "status", "report", "check"])
def test_an_odd_yaml_is_refused(run: Run, path: Path, verb: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    assert_refused(run(verb, path))
    assert list(tmp_path.iterdir()) == []


START = b"storage: ./results\nsweep: {study: quickstart, "
MADE: dict[str, bytes] = {
    "integer of 5,000 digits": START + b"seeds: " + b"9" * 5000 + b"}",
    "hexadecimal integer": START + b"seeds: 0x" + b"f" * 5000 + b"}",
    "base 60": START + b"seeds: " + b"1:" * 3000 + b"1}",
    "float": START + b"seeds: " + b"9" * 5000 + b".0}",
    "3,000 brackets": b"storage: " + b"[" * 3000,
    "3,000 closed brackets": b"storage: " + b"[" * 3000 + b"]" * 3000,
    "3,000 braces": b"{a: " * 3000,
    "3,000 dashes": b"- " * 3000,
    "3,000 levels": b"\n".join(b" " * n + b"a:" for n in range(1000)),
    "not UTF-8": b"storage: \xff\xfe\nsweep: {study: quickstart}",
    "NUL": b"storage: a\0b\n",
    "UTF-16": "storage: ./results\n".encode("utf-16"),
    "bytes": bytes(range(256)) * 8,
    "long name": START + b"name: " + b"x" * 100_000 + b"}",
    "long key": START + b"x" * 1000 + b": 1}",
    "many keys": START + b", ".join(b"k%d: 1" % n for n in range(2000)) + b"}",
    "2 MB": START + b" " * 2**21 + b"}",
    "2,000 bad studies": b"storage: ./results\nsweep: {studies: [" + b"{name: s, kind: x, seedss: 1}, " * 2000 + b"]}",
    "too many trials": b"storage: ./results\nsweep: {studies: ["
    + b", ".join(
        b"{name: s%d, kind: error_bars, datasets: [digits], detectors: all, abnormal: all, seeds: 1000}" % n
        for n in range(500)
    )
    + b"]}",
}


@pytest.mark.parametrize("data", MADE.values(), ids=MADE.keys())
def test_a_made_yaml_is_refused(run: Run, data: bytes, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "made.yaml").write_bytes(data)
    assert_refused(run("plan", "made.yaml"))


def test_a_byte_order_mark_is_no_problem(run: Run, tmp_path: Path) -> None:
    config = write_config(tmp_path, [{"detectors": ["knn"], "abnormal": [0]}])
    config.write_bytes(b"\xef\xbb\xbf" + config.read_bytes())
    code, text = run("plan", config)
    assert code == 0, text


SETTINGS = [
    *(f"trial.{key}={value}" for key in ("hang_seconds", "checkpoint_seconds") for value in
      (".inf", "-.inf", ".nan", "0", "-1", "true", "1e300", "x", "[1]", "null")),
    *(f"trial.{key}={value}" for key in ("retries", "stop_after_failures", "cpus") for value in
      ("true", ".inf", ".nan", "-1", "1.5", "9" * 30)),
    *(f"trial.gpus={value}" for value in ("true", ".nan", "2", "-1")),
    *(f"budget.{key}={value}" for key in ("max_hours", "max_usd") for value in (".inf", ".nan", "true", "0", "1e300")),
    *(f"data.cache_gb={value}" for value in (".inf", ".nan", "true", "0")),
    *(f"data.size={value}" for value in ("true", "17", "16.5")),
    *(f"cluster.{key}={value}" for key in ("cpus", "gpus", "usd_per_hour") for value in ("true", ".nan", "-1", ".inf")),
    *(f"sweep.studies.0.seeds={value}" for value in ("[true]", "true", "[.nan]", "[1.5]", "0", "-1", "[]", "[[1]]")),
    *(f"sweep.studies.0.split_seed={value}" for value in ("true", "4294967296", "-1", ".nan")),
    *(f"sweep.studies.0.eval_every={value}" for value in ("true", "-1", ".inf")),
    *(f"sweep.studies.0.validation={value}" for value in
      ("{normal: .nan}", "{normal: true}", "{abnormal: .inf}", "{normal: 1}")),
    *(f"sweep.studies.0.hyperparameters={{ganomaly: {{{value}}}}}" for value in
      ("lr: .nan", "lr: .inf", "lr: true", f"nz: {'9' * 400}", "nz: true", "nz: 1e300", "nz: [1]", "lambda: true",
       "lambda: .nan")),
    *(f"sweep.studies.0={{name: s, kind: search, datasets: [digits], detectors: [ganomaly], {value}}}" for value in
      ("tuning_seeds: [true]", "tuning_seeds: [4294967296]", "candidates: true", "parallel: .inf",
       "space: {nz: {low: .nan, high: 1}}", "space: {nz: {low: 1, high: .inf}}", "space: {nz: {low: true, high: 9}}")),
    *(f"sweep.studies.0={{name: s, kind: grid, datasets: [digits], detectors: [ganomaly], axes: {{nz: [{value}]}}}}"
      for value in ("true", ".nan", ".inf", "1.5")),
    *(f"data.sets={{x: {{layout: scans, root: ., {value}}}}}" for value in
      ("stride: true", "per_scan: true", "scale: .nan", "iou: .nan", "blank: true", "max_pixels: true",
       "window: .inf")),
    "a", "=1", "a=[", "a=&a [*a]", "a=2001-99-99", "storage.x.y=1", "sweep.studies.9.seeds=1", "sweep.studies.x=1",
    "sweep.studies.²=1", "x" * 5000 + "=1", "storage=\udcff", ".".join("a" * 5000) + "=1",
]  # fmt: skip


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda text: text[:80].encode("ascii", "replace").decode())
def test_an_odd_value_of_a_key_is_refused(run: Run, setting: str, tmp_path: Path) -> None:
    config = write_config(tmp_path, [{"detectors": ["ganomaly"], "abnormal": [0]}])
    assert_refused(run("plan", config, "--set", setting))


# -- what is no file --------------------------------------------------------------------------------


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    os.mkfifo(tmp_path / "pipe")
    return tmp_path / "pipe"


@pytest.mark.parametrize("words", [("plan",), ("verify",), ("score", "nowhere", "best"), ("data", "list")])
def test_a_pipe_in_place_of_a_file_is_refused_and_not_opened(words: tuple[str, ...], pipe: Path) -> None:
    ended = sweep(*words, pipe)  # in a process of its own, which has a time-out
    assert_refused((ended.returncode, ended.stdout + ended.stderr))


NO_FILES = ["/dev/zero", "/dev/null", "/proc/self/mem", "/", "nowhere/at all", "", "x" * 300]


@pytest.mark.parametrize("path", NO_FILES, ids=range(len(NO_FILES)))
@pytest.mark.parametrize("verb", ["plan", "verify"])
def test_what_is_no_file_is_refused(run: Run, verb: str, path: str) -> None:
    if (verb, path) != ("verify", "/"):  # a folder is a store
        assert_refused(run(verb, path))


def test_a_pipe_among_images_and_annotations_is_refused(pipe: Path, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    for name in ("a", "b"):
        (folder / name).mkdir(parents=True)
        os.mkfifo(folder / name / "x.png")
    own = {"x": {"layout": "classes", "root": str(folder)}, "y": {"layout": "scans", "root": str(folder)},
           "z": {"layout": "scans", "root": str(folder), "images": "a", "annotations": "boxes.csv"}}  # fmt: skip
    os.mkfifo(folder / "boxes.csv")
    for name in own:
        config = write_config(
            tmp_path, [{"datasets": [name], "detectors": ["knn"]}], data={"sets": own, "cache": str(tmp_path / "cache")}
        )
        ended = sweep("data", "put", name, config)
        assert_refused((ended.returncode, ended.stdout + ended.stderr))


# -- stores -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(2))
def test_odd_types_anywhere_in_the_record_of_a_launch(run: Run, seed: int, tmp_path: Path) -> None:
    made = MadeUp(tmp_path, abnormal=[0], seeds=1)
    made.launch()
    path = "sweeps/test/specs/0001.json"
    for record in odd_copies(json.loads(made.store.get(path)), seed, 25):
        made.store.put(path, json.dumps(record).encode())
        for verb in ("status", "report"):
            assert_said(run(verb, made.config))
        assert_said(run("score", made.sweep.storage, "best", tmp_path))


@pytest.mark.parametrize("data", [b"", b"[", b"[]", b'{"state": "running"}', b'{"launch": "x"}', b"[" * 5000, b"\xff"])
def test_odd_status_of_a_launch(run: Run, data: bytes, tmp_path: Path) -> None:
    made = MadeUp(tmp_path, abnormal=[0], seeds=1)
    made.launch()
    for name in ("head.json", "lease"):
        made.store.put(f"sweeps/test/{name}", data)
    for verb in ("status", "report"):
        code, text = run(verb, made.config)
        assert (code, "Traceback" in text, "defect" in text) == (0, False, False), text


def test_one_damaged_trial_ends_no_verb(run: Run, tmp_path: Path) -> None:
    made = MadeUp(tmp_path, abnormal=[0, 1], seeds=2)
    made.launch()
    key = made.planned[0].key
    made.store.put(f"trials/{key}/result.json", b'{"status": "ok"}')
    for verb in ("plan", "status", "report"):
        code, text = run(verb, made.config)
        assert code == 0, text
        assert f"delete trials/{key} there and launch again" in " ".join(text.split())
    assert_refused(run("report", made.config, "--bundle", tmp_path / "x.zip"))
    assert_refused(run("trial", made.config, key))
    code, text = run("verify", made.sweep.storage)
    assert code == 1 and f"trials/{key}/result.json" in text


# -- the last net, and what is printed --------------------------------------------------------------


def test_a_defect_is_one_line_with_the_file_of_its_traceback(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("inside; password hunter2-hunter2")

    monkeypatch.setenv("SOME_PASSWORD", "hunter2-hunter2")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr("sweep.spec.yamlfile.read", fail)
    code, text = run("plan", "x.yaml")
    assert code == 1
    assert "ZeroDivisionError in this program, which is a defect of it" in text
    (file,) = tmp_path.glob("sweep-defect-*.txt")
    assert str(file) in text.replace("\n", "")
    assert "Traceback" not in text
    assert "ZeroDivisionError: inside" in file.read_text() and "hunter2" not in file.read_text()
    monkeypatch.setenv("SWEEP_DEBUG", "1")
    monkeypatch.setattr("sys.argv", ["sweep", "plan", "x.yaml"])
    with pytest.raises(ZeroDivisionError):
        main()


def test_ascii_output_shows_every_name(tmp_path: Path) -> None:
    config = write_config(tmp_path, [{"name": "s", "detectors": ["knn"], "abnormal": [0]}])
    named = config.rename(tmp_path / "snowman ☃.yaml")
    for extra in ({"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}):
        ended = sweep("plan", named, **extra)
        assert ended.returncode == 0, ended.stderr
        assert "Nothing was started" in ended.stdout
        ended = sweep("plan", tmp_path / "gone ☃.yaml", **extra)
        assert_refused((ended.returncode, ended.stdout + ended.stderr))
