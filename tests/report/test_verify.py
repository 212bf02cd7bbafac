"""A bundle holds all data of its report; every later change is reported, and hostile files are refused."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sweep.errors import UserError
from sweep.launch.rerun import compare
from sweep.report.bundle import NAMES, Bundle
from sweep.report.verify import Verified, verify
from tests.support.made_up import MadeUp
from tests.support.sweeps import ROOT, sweep

Files = dict[str, bytes]


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made up")
    return MadeUp(folder).bundle(folder / "b'ü.zip")


def write_changed(packed: Path, folder: Path, change: Callable[[Files], None], *, relist: bool) -> Path:
    """Write a copy of the bundle with changed contents; with `relist`, bundle.json lists the new hashes."""
    with zipfile.ZipFile(packed) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    change(files)
    if relist:
        body = json.loads(files["bundle.json"])
        others = {name: data for name, data in files.items() if name != "bundle.json"}
        body["files"] = {n: {"bytes": len(d), "sha256": hashlib.sha256(d).hexdigest()} for n, d in others.items()}
        files["bundle.json"] = json.dumps(body).encode()
    path = folder / "changed.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def table_of(data: bytes) -> pa.Table:
    return pq.read_table(io.BytesIO(data))


def bytes_of(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


def with_column(data: bytes, name: str, change: Callable[[Any], Any]) -> bytes:
    table = table_of(data)
    index = table.column_names.index(name)
    column = pa.array(change(table[name].to_pylist()), table[name].type)
    return bytes_of(table.set_column(index, name, column))


def first_scores(files: Files) -> str:
    """Return the first scores file without components, whose scores cannot be checked against components."""
    return min(n for n, d in files.items() if n.startswith("scores/") and "latent" not in table_of(d).column_names)


def raise_lowest(values: list[Any]) -> list[Any]:
    """Replace the lowest number by one above the highest."""
    low = int(np.argmin(values))
    return [*values[:low], max(values) + 1, *values[low + 1 :]]


def test_an_honest_bundle_is_recomputed_to_the_last_cell(packed: Path) -> None:
    found = verify(Bundle(packed))
    assert found.differences == ()
    assert (found.trials, found.rows) == (12, 24)
    assert found.cells == 2 * 3 * 2 * 4, "selections x metrics x detectors x (classes and their mean)"


def test_equal_reports_make_equal_bundles(packed: Path, tmp_path: Path) -> None:
    assert MadeUp(packed.parent).bundle(tmp_path / "again.zip").read_bytes() == packed.read_bytes()


@pytest.mark.parametrize("relist", [False, True])
def test_a_single_changed_score_is_found_and_its_cells_are_named(packed: Path, tmp_path: Path, relist: bool) -> None:
    where = []

    def change(files: Files) -> None:
        where.append(first_scores(files))
        files[where[0]] = with_column(files[where[0]], "score", raise_lowest)

    found = verify(Bundle(write_changed(packed, tmp_path, change, relist=relist))).differences
    key = where[0][7:-8]
    assert any("auroc is" in line and "but the scores give" in line and key in line for line in found)
    assert any(line.startswith("leaderboard.csv: knn plain digits D1") for line in found)
    assert any("changed after packing: its SHA-256" in line for line in found) != relist
    assert any(f"trial {key}: the scores are not those of the trial's record" in line for line in found)


def test_a_changed_score_that_changes_no_rank_is_found_by_its_hash(packed: Path, tmp_path: Path) -> None:
    def change(files: Files) -> None:
        name = first_scores(files)
        files[name] = with_column(files[name], "score", lambda v: [max(v) + 1 if x == max(v) else x for x in v])

    first, second = verify(Bundle(write_changed(packed, tmp_path, change, relist=False))).differences
    assert "was changed after packing" in first
    assert "the scores are not those of the trial's record" in second


def test_a_score_that_is_no_mixture_of_its_components_is_found(packed: Path, tmp_path: Path) -> None:
    def change(files: Files) -> None:
        name = min(n for n, d in files.items() if n.startswith("scores/") and "latent" in table_of(d).column_names)
        files[name] = with_column(files[name], "score", raise_lowest)

    found = verify(Bundle(write_changed(packed, tmp_path, change, relist=True))).differences
    assert any("1 of 60 scores are not their components mixed with lambda" in line for line in found)


def in_rows(name: str, value: Any) -> Callable[[Files], None]:
    def change(files: Files) -> None:
        files["results.parquet"] = with_column(files["results.parquet"], name, lambda values: [value, *values[1:]])

    return change


def in_text(name: str, old: str, new: str) -> Callable[[Files], None]:
    def change(files: Files) -> None:
        text = files[name].decode()
        assert old in text
        files[name] = text.replace(old, new, 1).encode()

    return change


def without_first_row(files: Files) -> None:
    files["results.parquet"] = bytes_of(table_of(files["results.parquet"]).slice(1))


def without_scores(files: Files) -> None:
    del files[first_scores(files)]


MEAN = "knn,plain,digits,D1,mean,last,clean,auroc"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (in_rows("auroc", 0.99), "auroc is 0.99 in the row but the scores give "),
        (in_rows("auroc_se", 0.0), "auroc_se is 0.0 in the row but the scores give "),
        (in_rows("seed", 7), "seed is 7 in the row but 0 in the trial's record"),
        (in_rows("status", "diverged"), "status is diverged in the row but ok in the trial's record"),
        (in_rows("hp_epochs", 99), "hp_epochs is 99 in the row"),
        (without_first_row, "leaderboard.csv: "),
        (without_scores, "the bundle has no scores, so the rows cannot be recomputed"),
        (in_text("results.json", '"epochs":', '"epocs":'), "the key is not that of the trial's spec"),
        (in_text("leaderboard.csv", f"{MEAN},0.", f"{MEAN},1."), MEAN.replace(",", " ")),
    ],
)  # fmt: skip
def test_whatever_else_was_changed_is_named(
    packed: Path, tmp_path: Path, change: Callable[[Files], None], message: str
) -> None:
    found = verify(Bundle(write_changed(packed, tmp_path, change, relist=True))).differences
    assert any(message in line for line in found), found


def test_a_trial_left_out_everywhere_is_missed(packed: Path, tmp_path: Path) -> None:
    def change(files: Files) -> None:
        table = table_of(files["results.parquet"])
        rows = [row for row in table.to_pylist() if (row["detector"], row["seed"]) != ("ganomaly", 2)]
        files["results.parquet"] = bytes_of(pa.Table.from_pylist(rows, table.schema))

    found = verify(Bundle(write_changed(packed, tmp_path, change, relist=True)))
    assert sum("the trial is planned, but the bundle has no row of it" in line for line in found.differences) == 3


def members(path: Path, *entries: tuple[str, bytes], packing: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", packing) as archive:
        for name, data in entries:
            archive.writestr(name, data)
    return path


@pytest.mark.parametrize(
    "name",
    ["../evil", "/etc/passwd", "scores/../../x.parquet", "..\\x", "scores/0.parquet", "C:x", "bundle.json/", "a\nb"],
)
def test_a_path_that_no_bundle_has_is_refused_and_nothing_is_written(name: str, tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    path = members(inside / "x.zip", (name, b"x"))
    with pytest.raises(UserError, match="it has an unexpected file"):
        Bundle(path)
    assert [found.name for found in tmp_path.rglob("*")] == ["inside", "x.zip"]
    assert not NAMES.fullmatch(name)


def test_a_bomb_is_refused_before_it_is_unpacked(packed: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="would unpack from"):
        Bundle(members(tmp_path / "bomb.zip", ("results.json", bytes(2**26))))
    with pytest.raises(UserError, match="compressed by a method that no bundle uses"):
        Bundle(members(tmp_path / "lzma.zip", ("results.json", b"{}"), packing=zipfile.ZIP_LZMA))

    def lies(files: Files) -> None:
        files["results.json"] = b"[" * 1_000_000

    with pytest.raises(UserError, match="is not readable JSON"):
        verify(Bundle(write_changed(packed, tmp_path, lies, relist=True)))


@pytest.mark.parametrize(
    "table",
    [
        pa.table({"label": pa.array(np.zeros(2**26, np.uint8))}),
        pa.table({"part": pa.DictionaryArray.from_arrays(np.zeros(2**16, np.int32), ["x" * 2**14]).cast(pa.string())}),
        pa.table({"label": [[1, 2], [3]]}),
    ],
    ids=["many rows", "long texts", "lists"],
)
def test_a_table_that_unpacks_to_too_much_is_refused(
    packed: Path, tmp_path: Path, table: pa.Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sweep.report.bundle.VALUES", 2**25)

    def change(files: Files) -> None:
        files[first_scores(files)] = bytes_of(table)

    found = verify(Bundle(write_changed(packed, tmp_path, change, relist=True))).differences
    assert any("is refused" in line for line in found)


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04", b"no zip at all"])
def test_what_is_no_zip_is_refused(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_bytes(data)
    with pytest.raises(UserError, match="is not a bundle, or it is incomplete"):
        Bundle(tmp_path / "x.zip")
    with pytest.raises(UserError, match="cannot be read"):
        Bundle(tmp_path / "absent.zip")


def test_a_truncated_or_flipped_bundle_is_never_a_traceback(packed: Path, tmp_path: Path) -> None:
    data, random = packed.read_bytes(), np.random.default_rng(0)
    for number in range(40):
        damaged = bytearray(data)
        damaged[int(random.integers(len(damaged)))] ^= 1 << int(random.integers(8))
        path = tmp_path / f"{number}.zip"
        path.write_bytes(damaged[: len(damaged) // 2] if number == 0 else damaged)
        try:
            found: Verified = verify(Bundle(path))
        except UserError:
            continue
        assert found.trials <= 12


def test_a_detector_of_somebodys_own_is_not_imported(packed: Path, tmp_path: Path) -> None:
    def change(files: Files) -> None:
        body = json.loads(files["bundle.json"])
        body["spec"]["sweep"]["studies"][0]["detectors"] = ["antigravity:Class"]
        files["bundle.json"] = json.dumps(body).encode()

    found = verify(Bundle(write_changed(packed, tmp_path, change, relist=False)))
    assert "antigravity" not in sys.modules
    assert found.differences == () and "antigravity:Class" in found.notes[0]


def test_verify_needs_neither_torch_nor_a_store(packed: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from sweep.report.bundle import Bundle\n"
        "from sweep.report.verify import verify\n"
        "found = verify(Bundle(Path(sys.argv[1])))\n"
        "print(len(found.differences), sorted({'torch', 'ray', 'boto3', 'optuna', 'sklearn'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(packed)], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "0 []\n", done.stderr


def test_the_command_packs_verifies_and_names_what_differs(tmp_path: Path) -> None:
    made = MadeUp(tmp_path)
    run = sweep("report", made.config, "--bundle", tmp_path / "b.zip", "--compare", "knn", "ganomaly")
    assert run.returncode == 0, run.stderr
    assert "knn plain against ganomaly repo_head" in run.stdout and "12 trials" in run.stderr
    run = sweep("verify", tmp_path / "b.zip")
    assert (run.returncode, run.stdout.strip()) == (
        0,
        "12 trials, 24 rows, 48 cells recomputed: all agree with the scores",
    )

    def change(files: Files) -> None:
        files[first_scores(files)] = with_column(files[first_scores(files)], "score", raise_lowest)

    run = sweep("verify", write_changed(tmp_path / "b.zip", tmp_path, change, relist=True))
    assert run.returncode == 1 and "the scores give" in run.stdout
    run = sweep("verify", made.config)
    assert (
        run.returncode == 1 and "is not a bundle, or it is incomplete" in run.stderr and "Traceback" not in run.stderr
    )


def test_a_retrained_trial_is_what_was_recorded(tmp_path: Path) -> None:
    made = MadeUp(tmp_path, detectors=["knn"], abnormal=[0])
    (planned,) = made.planned
    made.store.delete_tree(f"trials/{planned.key}")
    assert sweep("trial", made.config, planned.key).returncode == 0
    run = sweep("verify", made.bundle(tmp_path / "b.zip"), "--rerun", 1)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "(equal), inside" in run.stdout


def test_a_retrained_trial_that_lands_elsewhere_is_outside() -> None:
    row = dict.fromkeys(("detector", "variant", "abnormal", "seed"), "x") | {"auroc": 0.9, "auroc_se": 0.01}
    assert not compare(row, 0.8, [0.9], []).inside, "one seed: the interval is that of the test set"
    assert compare(row, 0.91, [0.9], []).inside
    assert compare(row, 0.8, [0.9, 0.8, 0.7], []).inside, "more seeds: the interval comes from their spread"
    assert "OUTSIDE" in compare(row, 0.1, [0.9, 0.8, 0.7], ["on gpu"]).text()
