"""Odd, damaged and hostile inputs: each ends in one short text and exit code 0 or 1, never in a traceback or a hang.

Small files are in `corpus`; what is large or not text is made here.  Whoever finds another input that fails adds it.
"""

from __future__ import annotations

import copy
import hashlib
import io
import json
import os
import random
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sweep.cli.app import main
from sweep.store.records import seal
from tests.support.made_up import MadeUp
from tests.support.sweeps import sweep, write_config

CORPUS = sorted((Path(__file__).parent / "corpus").iterdir())
MOST_CHARACTERS = 4_000
ODD: list[Any] = [None, True, 0, -1, 2**70, 1.5, "", "x" * 3000, "a\0b", "\x1b[31m", [], [1], {}, {"a": 1}, [[[]]]]
Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command in this process, as a user does; returns its exit code and all that it printed."""
    monkeypatch.delenv("SWEEP_DEBUG", raising=False)

    def call(*words: object) -> tuple[int, str]:
        capsys.readouterr()
        monkeypatch.setattr("sys.argv", ["sweep", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        return int(ended.value.code or 0), printed.out + printed.err

    return call


def assert_refused(found: tuple[int, str]) -> None:
    code, text = found
    assert code == 1, text[-2000:]
    assert_short(text)


def assert_short(text: str) -> None:
    assert "Traceback" not in text and "defect" not in text, text[-2000:]
    assert len(text) < MOST_CHARACTERS, len(text)
    assert "\x1b" not in text and "\0" not in text


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


# -- bundles ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("made up")
    made = MadeUp(folder, abnormal=[0, 1], seeds=2)
    made.launch()
    with zipfile.ZipFile(made.bundle(folder / "x.zip")) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write_bundle(path: Path, files: dict[str, bytes]) -> Path:
    """Write a bundle as a careful stranger would: bundle.json has the hashes of all files, if it has any."""
    try:
        body = json.loads(files["bundle.json"])
        others = {name: data for name, data in files.items() if name != "bundle.json"}
        body["files"] = {n: {"bytes": len(d), "sha256": hashlib.sha256(d).hexdigest()} for n, d in others.items()}
        files = {**files, "bundle.json": json.dumps(body).encode()}
    except (ValueError, TypeError, KeyError, RecursionError):
        pass
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every value inside of a JSON value."""
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, item in inner:
        yield from places(item, (*path, name))


def replaced(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """Return a copy of a JSON value with another value at a path."""
    if not path:
        return new
    made = copy.copy(value)
    made[path[0]] = replaced(value[path[0]], path[1:], new)
    return made


def odd_copies(value: Any, seed: int, count: int) -> Iterator[Any]:
    """Yield copies of a JSON value, each with an odd value at a random place."""
    rng = random.Random(seed)
    everywhere = list(places(value))
    for _ in range(count):
        yield replaced(value, rng.choice(everywhere), rng.choice(ODD))


def assert_said(found: tuple[int, str]) -> None:
    """Assert that a verb ends in order: with all differences for `verify`, which may be many."""
    code, text = found
    assert code in (0, 1)
    assert "Traceback" not in text and "defect" not in text, text[-2000:]
    assert "\x1b" not in text and "\0" not in text
    assert len(text) < 100_000


@pytest.mark.parametrize("seed", range(4))
def test_odd_types_anywhere_in_the_spec_of_a_bundle(run: Run, packed: Any, seed: int, tmp_path: Path) -> None:
    for body in odd_copies(json.loads(packed["bundle.json"]), seed, 40):
        files = {**packed, "bundle.json": json.dumps(body).encode()}
        assert_said(run("verify", write_bundle(tmp_path / "x.zip", files)))


@pytest.mark.parametrize("seed", range(4))
def test_odd_types_anywhere_in_the_results_of_a_bundle(run: Run, packed: Any, seed: int, tmp_path: Path) -> None:
    results = json.loads(packed["results.json"])
    key = sorted(results)[0]
    for result in odd_copies(results[key], seed, 20):
        for fitted in (result, seal(result) if isinstance(result, dict) else result):
            data = json.dumps({**results, key: fitted}).encode()
            assert_said(run("verify", write_bundle(tmp_path / "x.zip", {**packed, "results.json": data})))


def bytes_of(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


COLUMN_KINDS = [
    pa.array([None]), pa.array([1]), pa.array([float("nan")]), pa.array([float("inf")]), pa.array(["\x1b[31m"]),
    pa.array([True]), pa.array([[1]]), pa.array([{"a": 1}]), pa.array([b"x"]), pa.array([2**63], pa.uint64()),
]  # fmt: skip


@pytest.mark.parametrize("kind", range(len(COLUMN_KINDS)))
def test_odd_columns_in_the_tables_of_a_bundle(run: Run, packed: Any, kind: int, tmp_path: Path) -> None:
    names = ["results.parquet", next(name for name in packed if name.startswith("scores/"))]
    for name in names:
        table = pq.read_table(io.BytesIO(packed[name]))
        for column in random.Random(kind).sample(table.column_names, min(8, len(table.column_names))):
            one = COLUMN_KINDS[kind]
            odd = pa.concat_arrays([one] * len(table))
            changed = table.set_column(table.column_names.index(column), column, odd)
            for data in (bytes_of(changed), bytes_of(table.drop_columns([column]))):
                assert_said(run("verify", write_bundle(tmp_path / "x.zip", {**packed, name: data})))


BODIES: dict[str, dict[str, bytes]] = {
    "deep spec": {"bundle.json": b'{"format": 1, "files": {}, "spec": ' + b"[" * 5000 + b"]" * 5000 + b"}"},
    "deep results": {"results.json": b'{"a":' * 5000 + b"1" + b"}" * 5000},
    "long integer": {"results.json": b'{"a": ' + b"9" * 5000 + b"}"},
    "NaN": {"results.json": b'{"a": NaN}'},
    "list": {"results.json": b"[]", "bundle.json": b"[]"},
    "no text": {"results.json": b"\xff\xfe", "bundle.json": b"\xff\xfe"},
    "no table": {"results.parquet": b"PAR1" + bytes(100) + b"PAR1"},
    "empty table": {"results.parquet": bytes_of(pa.table({}))},
    "odd csv": {"leaderboard.csv": b'"' + b"x" * 200_000},
    "NUL in csv": {"leaderboard.csv": b"a,b\0,c\n" * 3},
    "escapes in csv": {"leaderboard.csv": b"\x1b[31m,\x1b]0;x\x07\n\x1b[2J,1\n"},
}


@pytest.mark.parametrize("change", BODIES.values(), ids=BODIES.keys())
def test_an_odd_file_of_a_bundle(run: Run, packed: Any, change: dict[str, bytes], tmp_path: Path) -> None:
    found = run("verify", write_bundle(tmp_path / "x.zip", {**packed, **change}))
    assert_said(found)
    assert found[0] == 1


def test_a_truncated_or_flipped_bundle(run: Run, packed: Any, tmp_path: Path) -> None:
    whole = write_bundle(tmp_path / "x.zip", packed).read_bytes()
    rng = random.Random(0)
    for number in range(60):
        data = bytearray(whole[: rng.randrange(len(whole))] if number % 2 else whole)
        for _ in range(3):
            if data:
                data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        (tmp_path / "y.zip").write_bytes(bytes(data))
        assert_said(run("verify", tmp_path / "y.zip"))


def in_spec(packed: Any, change: Callable[[dict[str, Any]], object]) -> dict[str, bytes]:
    body = json.loads(packed["bundle.json"])
    change(body["spec"]["sweep"])
    return {**packed, "bundle.json": json.dumps(body).encode()}


def test_2000_studies_in_the_spec_of_a_bundle(run: Run, packed: Any, tmp_path: Path) -> None:
    def change(plan: dict[str, Any]) -> None:
        (study,) = plan["studies"]
        every = {**study, "detectors": ["ganomaly", "knn", "pca"], "seeds": list(range(1000))}
        plan["studies"] = [{**every, "name": f"s{number}"} for number in range(2000)]

    assert_refused(run("verify", write_bundle(tmp_path / "x.zip", in_spec(packed, change))))


EVIL = "tests.chaos.not_to_be_imported:Evil"


@pytest.mark.parametrize(
    "studies",
    [
        lambda study: [{**study, "detectors": [EVIL]}],
        lambda study: [5, {**study, "detectors": [EVIL]}],
        lambda study: [{}, study, {**study, "name": "t", "detectors": [EVIL]}],
        lambda study: [{**study, "detectors": {EVIL: 1}}, study],
        lambda study: {"a": {**study, "detectors": [[EVIL]]}},
    ],
)
@pytest.mark.parametrize("words", [(), ("--rerun", "1")])
def test_no_code_that_a_bundle_names_is_imported(
    run: Run, packed: Any, studies: Callable[[Any], Any], words: tuple[str, ...], tmp_path: Path
) -> None:
    files = in_spec(packed, lambda plan: plan.update(studies=studies(plan["studies"][0])))
    code, text = run("verify", write_bundle(tmp_path / "x.zip", files), *words)
    assert_said((code, text))
    assert "was imported" not in text
    assert EVIL in text
    if words:
        assert code == 1
        assert "add -y" in text


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
