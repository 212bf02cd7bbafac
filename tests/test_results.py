"""The Python API for results, and trained detectors on new images."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from rich.console import Console
from sklearn.datasets import load_digits

from data import protocols
from data.errors import DataError
from data.storage import new_images
from data.storage.loader import load as load_dataset
from sweep.cli.score import score
from sweep.errors import UserError
from sweep.launch.one_trial import run
from sweep.leaderboard.rows import COLUMNS, provenance
from sweep.plan.datasets import put_into
from sweep.plan.expand import expand
from sweep.plan.launch_record import record
from sweep.results import Results, open_results
from sweep.spec.load import load
from sweep.store import launch_status, open_store
from sweep.store.base import Store, StoreError
from sweep.store.launch_status import LaunchStatus
from sweep.store.ledger import Ledger
from tests.support.made_up import MadeUp
from tests.support.records import change_result
from tests.support.sweeps import ROOT, platform, sweep, write_config

SMALL = {"epochs": 1, "width": 4, "nz": 8}
STUDIES = [
    {"name": "small", "detectors": ["ganomaly", "pca", "total_variation"], "abnormal": [0], "seeds": 2,
     "hyperparameters": {"ganomaly": SMALL}},
]  # fmt: skip
VALIDATED = [
    {"name": "validated", "detectors": ["ganomaly"], "abnormal": [1], "hyperparameters": {"ganomaly": SMALL},
     "validation": {"normal": 0.1, "abnormal": 0.2}},
]  # fmt: skip
Change = Callable[[dict[str, Any]], object]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Make a folder with the store of one small sweep that keeps all weights, and with digits as image files."""
    threads = torch.get_num_threads()
    folder = tmp_path_factory.mktemp("made")
    launch(folder, STUDIES, time=1.0)
    pixels = load_digits().images
    for number in range(24):
        path = folder / "digits" / ("more" if number % 2 else "") / f"{number:02d}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.rint(pixels[number] * 255 / 16).astype(np.uint8)).save(path)
    yield folder
    torch.set_num_threads(threads)


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """Copy the folder, so that a test may change it."""
    shutil.copytree(made, tmp_path / "made")
    return tmp_path / "made"


def launch(folder: Path, studies: list[dict[str, Any]], time: float, name: str = "test") -> None:
    """Write into the store what a launch leaves there, without Ray."""
    config = load(write_config(folder, studies, trial={"keep": "all"}), [f"sweep.name={name}"])
    store = open_store(config.storage)
    ledger, here, quiet = Ledger(store, config.name), platform(config), Console(quiet=True)
    put_into(store, config, "digits", quiet)
    ledger.put_spec({"sweep": config.model_dump(mode="json"), "platform": asdict(here), "time": time})
    for planned in expand(config, here).fixed:
        run(config, store, ledger, planned, quiet)


def open_made(folder: Path) -> Results:
    return open_results(folder / "store")


def key_of(results: Results, detector: str, seed: int = 0) -> str:
    frame = results.frame()
    return str(frame[(frame["detector"] == detector) & (frame["seed"] == seed)]["key"].iloc[0])


def problems(call: Callable[[], object]) -> list[str]:
    with pytest.raises((UserError, DataError, StoreError)) as caught:
        call()
    return str(caught.value).split("\n")


def score_folder(folder: Path, key: str, images: Path | None = None, **options: Any) -> Any:
    asked = {"sweep": None, "on_bad": "fail", "console": Console(quiet=True), **options}
    return score(str(folder / "store"), key, images or folder / "digits", folder / "out", **asked)


# -- tables -----------------------------------------------------------------------------------------


def test_rows_are_a_frame_with_the_types_of_their_columns(made: Path) -> None:
    frame = open_made(made).frame()
    assert list(frame.columns[: len(COLUMNS)]) == list(COLUMNS)
    ended = frame[(frame["selection"] == "last") & (frame["evaluation"] == "clean")]
    assert sorted(ended["detector"]) == ["ganomaly", "ganomaly", "pca", "total_variation"]
    assert str(frame["epoch"].dtype) == "Int64" and str(frame["dirty"].dtype) == "boolean"
    assert ended["auroc"].between(0, 1).all()
    assert set(ended["hp_nz"].dropna()) == {8}


def test_scores_are_mixed_with_the_lambda_of_the_row(folder: Path) -> None:
    results = open_made(folder)
    key = key_of(results, "ganomaly")
    frame = results.scores(key[:10])
    assert frame["score"].tolist() == frame["latent"].tolist(), "GANomaly scores the latent term alone"
    again = Results(open_store(str(folder / "store")), "test")
    again.__dict__["_rows"] = [{**row, "lam": 0.25} for row in results._rows]
    mixed = 0.25 * frame["reconstruction"].astype(float) + 0.75 * frame["latent"].astype(float)
    assert np.allclose(again.scores(key)["score"], mixed, rtol=1e-12)
    assert again.detector(key).lam == 0.25


def test_provenance_says_how_to_run_it_again(tmp_path: Path) -> None:
    made = MadeUp(tmp_path, abnormal=[0], detectors=["knn"])
    made.ledger.put_spec(
        {**record(made.sweep, made.platform), "argv": ["launch", "a b.yaml", "-y"], "commit": "abc123"}
    )
    origin = provenance(made.ledger, "python -m sweep report x.yaml")
    assert origin["run it again"] == "git checkout abc123 && python -m sweep launch 'a b.yaml' -y"
    assert str(origin["versions"]).startswith("python 3.") and str(origin["launched"]).endswith(" UTC")
    assert {row["hardware"] for row in made.reporting().rows} == {"A Processor"}
    assert "dollars" not in origin
    launch_status.write(made.store, made.sweep.name, LaunchStatus(launch=2, state="ended", usd=1.234))
    assert provenance(made.ledger, "")["dollars"] == "1.23 for the machines of launch 2"


def change(folder: Path, mutate: Change, path: str = "sweeps/test/specs/0001.json") -> None:
    """Rewrite a record in the store."""
    file = folder / "store" / path
    record = json.loads(file.read_text())
    mutate(record)
    file.write_text(json.dumps(record))


def test_the_sweep_is_the_one_launched_last_unless_it_is_named(folder: Path) -> None:
    launch(folder, [{"name": "late", "detectors": ["constant"], "abnormal": [0]}], time=2.0, name="late")
    assert open_made(folder).sweep == "late"
    assert set(open_made(folder).frame()["detector"]) == {"constant"}
    assert open_results(folder / "store", "test").frame()["detector"].nunique() == 3
    (problem,) = problems(lambda: open_results(folder / "store", "tset"))
    assert "unknown sweep 'tset', did you mean 'test'?" in problem


def test_a_place_without_a_sweep_is_told_with_the_fix(tmp_path: Path) -> None:
    (problem,) = problems(lambda: open_results(tmp_path / "nothing"))
    assert "no sweep was launched into" in problem and "python -m sweep launch" in problem
    (problem,) = problems(lambda: open_results("clusters/local.yaml"))
    assert "give its `storage`" in problem


def test_tables_load_no_torch(made: Path) -> None:
    code = (
        "import sys; from sweep.results import open_results\n"
        f"results = open_results({str(made / 'store')!r}); results.frame(); results.scores(results.best().key)\n"
        "print(sorted({'torch', 'ray', 'optuna', 'sklearn', 'matplotlib'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"


# -- detectors --------------------------------------------------------------------------------------


def held_out(store: Store, folder: Path) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.str_]]:
    """Return the test images of the trials, and their ids."""
    dataset = load_dataset(store, "digits", "s16-bilinear-1", folder / "cache")
    split = protocols.split(dataset, "D1", "0", 0, None)
    return np.asarray(dataset.images[split.test]), dataset.sample_ids[split.test]


@pytest.mark.parametrize("name", ["ganomaly", "pca", "total_variation"])
def test_a_trained_detector_scores_as_its_trial_did(name: str, made: Path, tmp_path: Path, one_thread: None) -> None:
    results = open_made(made)
    images, ids = held_out(results.store, tmp_path)
    key = key_of(results, name)
    frame = results.scores(key)
    frame = frame[(frame["part"] == "test") & (frame["evaluation"] == "clean")]
    assert frame["sample_id"].tolist() == ids.tolist()
    found = results.detector(key).score(images)
    np.testing.assert_allclose(found, frame["score"].to_numpy(), rtol=1e-5)


def test_what_is_no_image_of_its_shape_is_refused(made: Path) -> None:
    found = open_made(made).detector("best")
    floats: Any = np.zeros((2, 1, 16, 16))
    for wrong in (floats, np.zeros((2, 3, 16, 16), np.uint8), np.zeros((0, 1, 16, 16), np.uint8)):
        for ask in (found.score, found.reconstruct):
            with pytest.raises(ValueError, match=r"takes uint8 images \[N, 1, 16, 16\] with N >= 1, got"):
                ask(wrong)


def test_read_only_images_are_scored_and_reconstructed(made: Path) -> None:
    images = np.random.RandomState(0).randint(0, 256, (3, 1, 16, 16), np.uint8)
    images.setflags(write=False)
    found = open_made(made).detector(key_of(open_made(made), "ganomaly"))
    assert found.score(images).shape == (3,)
    remade = found.reconstruct(images)
    assert remade is not None and remade.dtype == np.uint8 and remade.shape == images.shape
    assert open_made(made).detector(key_of(open_made(made), "total_variation")).reconstruct(images) is None


def test_best_is_the_highest_test_auroc_where_nothing_was_validated_and_says_so(folder: Path) -> None:
    results = open_made(folder)
    frame = results.frame()
    kept = frame[frame["key"].isin(results.kept()) & (frame["selection"] == "last")]
    assert set(kept["detector"]) == {"ganomaly", "pca"}
    best = results.best()
    assert best.key == kept.loc[kept["auroc"].idxmax(), "key"]
    assert (best.validated, best.among) == (False, 3)
    assert "test AUROC" in best.text() and "too optimistic" in best.text()
    (folder / "store/trials" / best.key / "weights.safetensors").unlink()
    assert open_made(folder).best().key != best.key


def test_best_prefers_what_was_validated(folder: Path) -> None:
    launch(folder, [*STUDIES, *VALIDATED], time=3.0)
    results = open_made(folder)
    best = results.best()
    assert best.validated and best.among == 1
    record = Ledger(results.store, "test").result(best.key)
    assert record is not None
    at = record["validation"]["lambda"].index(record["lam"])
    assert best.auroc == record["validation"]["auroc"][at]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda trial: (trial / "weights.safetensors").unlink(), "trial.keep"),
        (lambda trial: (trial / "weights.safetensors").write_bytes(b"x" * 100), "is damaged"),
        (lambda trial: (trial / "result.json").unlink(), "has no result yet"),
    ],
)
def test_a_detector_that_cannot_be_had_is_told_with_the_fix(
    damage: Callable[[Path], object], message: str, folder: Path
) -> None:
    key = key_of(open_made(folder), "ganomaly")
    damage(folder / "store/trials" / key)
    (problem,) = problems(lambda: open_made(folder).detector(key))
    assert message in problem and key in problem


@pytest.mark.parametrize(
    ("mutate", "message"),
    [
        (lambda record: record["spec"].update(revision=record["spec"]["revision"] - 1), "was trained by revision"),
        (lambda record: record.update(status="diverged", cause="loss is NaN"), "diverged: loss is NaN"),
        (lambda record: record["spec"].update(detector="nowhere.to:BeFound"), "cannot load detector nowhere"),
    ],
)
def test_a_record_of_another_kind_gives_no_detector(mutate: Change, message: str, folder: Path) -> None:
    key = key_of(open_made(folder), "ganomaly")
    new = change_result(folder / "store/trials" / key, mutate)
    (problem,) = problems(lambda: open_made(folder).detector(new))
    assert message in problem


def test_without_any_weights_best_says_which_key_keeps_them(folder: Path) -> None:
    for path in (folder / "store/trials").glob("*/weights.safetensors"):
        path.unlink()
    (problem,) = problems(lambda: open_made(folder).detector("best"))
    assert "trial.keep" in problem and "--set trial.keep=best" in problem


def test_an_unknown_key_is_told_with_the_nearest_and_a_short_one_with_its_trials(made: Path) -> None:
    results = open_made(made)
    key = key_of(results, "pca")
    (problem,) = problems(lambda: results.detector(f"z{key[1:]}"))
    assert f"nearest in sweep test: {key}" in problem and problem.endswith("or best")
    (problem,) = problems(lambda: results.scores(""))
    assert "no trial" in problem


# -- images of a folder -----------------------------------------------------------------------------


def test_files_become_the_images_that_the_dataset_has(made: Path) -> None:
    read = open_made(made).detector("best").read(made / "digits")
    assert read.files[:2] == ("00.png", "02.png") and read.files[-1] == "more/23.png"
    dataset = load_dataset(open_store(str(made / "store")), "digits", "s16-bilinear-1", made / "cache")
    numbers = [int(Path(file).stem) for file in read.files]
    np.testing.assert_array_equal(read.images, dataset.images[numbers])


# -- the command ------------------------------------------------------------------------------------


def table(folder: Path) -> list[dict[str, str]]:
    with open(folder / "out/scores.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_scores_stand_in_the_csv_the_most_anomalous_first(folder: Path) -> None:
    results = open_made(folder)
    found = score_folder(folder, key_of(results, "ganomaly"))
    rows = table(folder)
    assert list(rows[0]) == ["file", "score", "reconstruction", "latent", "problem"]
    assert sorted(row["file"] for row in rows) == sorted(new_images.list_images(folder / "digits"))
    values = [float(row["score"]) for row in rows]
    assert values == sorted(values, reverse=True)
    read = found.trained.read(folder / "digits")
    expected = dict(zip(read.files, found.trained.score(read.images), strict=True))
    assert {row["file"]: float(row["score"]) for row in rows} == pytest.approx(expected, rel=1e-6)
    assert json.loads(json.dumps(found.to_json()))["images"][0]["file"] == rows[0]["file"]


@pytest.mark.parametrize(("name", "differences"), [("ganomaly", 2), ("total_variation", 0)])
def test_the_sheet_shows_the_most_anomalous_and_differences_where_there_are_any(
    name: str, differences: int, folder: Path
) -> None:
    found = score_folder(folder, key_of(open_made(folder), name))
    assert [path.name for path in found.wrote] == ["scores.csv", "most_anomalous.svg", "most_anomalous.pdf"]
    root = ElementTree.fromstring((folder / "out/most_anomalous.svg").read_bytes())
    texts = ["".join(element.itertext()) for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert texts.count("difference") == differences
    shown = " ".join(texts)
    assert "The 16 most anomalous of 24 images" in shown
    for rank, file in enumerate(found.files[:16], start=1):
        assert f"{rank}: " in shown and Path(file).name in shown
    assert (folder / "out/most_anomalous.pdf").read_bytes().startswith(b"%PDF")


def spoil(folder: Path) -> Path:
    images = folder / "digits"
    (images / "broken.png").write_bytes((images / "00.png").read_bytes()[:60])
    (images / "=cmd.png").write_text("no image")
    return images


def test_bad_images_are_all_told_and_nothing_is_written(folder: Path) -> None:
    images = spoil(folder)
    heading, *lines = problems(lambda: score_folder(folder, "best"))
    assert heading.startswith("2 of 26 images cannot be read") and "--on-bad skip" in heading
    assert [line.partition(": ")[0] for line in lines] == [str(images / "=cmd.png"), str(images / "broken.png")]
    assert not list((folder / "out").iterdir())
    lines = problems(lambda: open_made(folder).detector("best").read(images))
    assert len(lines) == 3 and "skip_bad" in lines[0]


def test_skipped_images_are_rows_without_numbers(folder: Path) -> None:
    images = spoil(folder)
    found = score_folder(folder, "best", on_bad="skip")
    assert len(found.files) == 24
    bad = [row for row in table(folder) if row["problem"]]
    assert [(row["file"], row["score"]) for row in bad] == [("'=cmd.png", ""), ("broken.png", "")]
    assert [entry["source"] for entry in found.to_json()["skipped"]] == ["=cmd.png", "broken.png"]
    assert len(found.trained.read(images, skip_bad=True).files) == 24


def test_a_folder_of_bad_images_alone_is_a_problem_even_where_they_are_skipped(folder: Path) -> None:
    (folder / "bad").mkdir()
    (folder / "bad/a.png").write_text("no image")
    heading, lines = problems(lambda: score_folder(folder, "best", folder / "bad", on_bad="skip"))
    assert heading == "1 of 1 images cannot be read: fix or remove them"
    assert "is not an image" in lines


@pytest.mark.parametrize(
    ("words", "messages"),
    [
        (["STORE", "best", "FOLDER", "--on-bad", "ignore"], ["unknown value of --on-bad 'ignore'", "skip"]),
        (["STORE", "best", "nowhere"], ["nowhere: no such folder"]),
    ],
)
def test_a_problem_of_the_command_line_is_one_clear_message(words: list[str], messages: list[str], made: Path) -> None:
    paths = {"STORE": made / "store", "FOLDER": made / "digits"}
    run = sweep("score", *[paths.get(word, word) for word in words])
    assert run.returncode == 1
    assert "Traceback" not in run.stderr
    for message in messages:
        assert message in run.stderr


def test_the_command_scores_a_folder_by_the_best_detector(made: Path, tmp_path: Path) -> None:
    run = sweep("score", made / "store", "best", made / "digits", "-o", tmp_path / "out", "--json")
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    assert found["key"] == open_made(made).best().key
    assert len(found["images"]) == 24
    assert "best of sweep test: the highest of 3 with kept weights" in run.stderr
    assert all(Path(path).exists() for path in found["wrote"])


def test_the_example_of_the_page_runs(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    page = (ROOT / "sweep/README.md").read_text()
    (example,) = re.findall(r"```python\n(from sweep\.results .*?)```", page, re.DOTALL)
    (folder / "store").rename(folder / "results")
    (folder / "digits").rename(folder / "FOLDER")
    monkeypatch.chdir(folder)
    names: dict[str, Any] = {}
    exec(example, names)
    assert names["scores"].shape == (24,)
    assert "ganomaly" in capsys.readouterr().out
