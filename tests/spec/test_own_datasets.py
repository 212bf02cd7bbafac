"""The user's own image folders in the YAML: declared, planned, stored, trained on."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from data.sources.layouts import LAYOUTS
from sweep.cli import datasets as cli_datasets
from sweep.errors import UserError
from sweep.launch.prepared import put_missing
from sweep.plan import datasets
from sweep.plan.expand import expand
from sweep.plan.launch_record import read_back, record
from sweep.spec.load import load, resolve
from sweep.spec.schema import text
from sweep.spec.sweep import Sweep
from sweep.store import open_store
from sweep.store.ledger import Ledger
from tests.support.image_folders import ANIMALS, MVTEC, PUBLISHED, write_images
from tests.support.sweeps import ROOT, environment, plan_of, platform, sweep

STUDY = {"name": "own", "kind": "error_bars", "detectors": ["knn"], "seeds": 1}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with three datasets, each in the layout of its name."""
    write_images(tmp_path / "bottle", MVTEC)
    write_images(tmp_path / "animals", ANIMALS)
    write_images(tmp_path / "mine", PUBLISHED)
    return tmp_path


def body(folder: Path, sets: Mapping[str, Any], **study: Any) -> dict[str, Any]:
    return {
        "storage": str(folder / "store"),
        "data": {"cache": str(folder / "cache"), "size": 16, "sets": sets},
        "sweep": {"name": "test", "studies": [{**STUDY, "datasets": list(sets), **study}]},
    }


def written(folder: Path, raw: dict[str, Any]) -> Path:
    config = folder / "sweep of 'mine' ü.yaml"
    config.write_text(yaml.safe_dump(raw))
    return config


def problems(raw: dict[str, Any]) -> list[str]:
    with pytest.raises(UserError) as caught:
        resolve(raw)
    return caught.value.problems


def bottles(folder: Path, **keys: Any) -> dict[str, Any]:
    return {"bottles": {"layout": "mvtec", "root": str(folder / "bottle"), **keys}}


def test_a_folder_that_is_not_stored_is_planned_from_its_names(folder: Path) -> None:
    found = resolve(body(folder, bottles(folder)))
    assert found.studies[0].abnormal == ("crack", "hole")
    info = found.dataset("bottles")
    assert (info.classes, info.images, info.protocols) == (("good", "crack", "hole"), 39, ("F0", "P1"))
    assert found.preparation("bottles").startswith("s16-bilinear-1-")
    assert Sweep.model_validate_json(found.model_dump_json()) == found


def test_a_size_of_its_own_wins_over_that_of_all_sets(folder: Path) -> None:
    assert resolve(body(folder, bottles(folder, size=32))).preparation("bottles").startswith("s32-")
    raw = body(folder, bottles(folder))
    del raw["data"]["size"]
    assert resolve(raw).preparation("bottles").startswith("s64-")


def test_all_problems_of_declarations_are_told_at_once_each_with_its_place(folder: Path) -> None:
    sets: dict[str, dict[str, object]] = {
        "mnist": {"layout": "folder", "root": "x"},
        "a b": {"layout": "folder", "root": "x"},
    }
    found = problems(body(folder, sets, datasets=["digits"], seeds="many"))
    assert found[0] == "data.sets: mnist: is the name of a built-in dataset; choose another"
    assert found[1].startswith("data.sets: a b: must be letters, digits")
    assert any(line.startswith("sweep.studies[0].seeds: ") for line in found)
    sets = {
        "a": {"layout": "mvtek", "root": "x"},
        "b": {"root": "x"},
        "c": {"layout": "mvtec"},
        "d": {"layout": "mvtec", "root": "x", "chanels": 1, "size": 33},
        "e": {"layout": "folder", "root": "x", "groups": "folder"},
    }
    found = problems(body(folder, sets, datasets=["digits"]))
    assert [line.partition(" (legal")[0] for line in found] == [
        "data.sets.a.layout: unknown layout 'mvtek', did you mean 'mvtec'?",
        f"data.sets.b.layout: must be given, one of {', '.join(LAYOUTS)}",
        "data.sets.c.root: must be given",
        "data.sets.d.size: input should be 8, 16, 28, 32, 64, 128 or 256, is 33",
        "data.sets.d: unknown key 'chanels', did you mean 'channels'?",
        "data.sets.e: unknown key 'groups'",
    ]


def test_a_set_that_is_neither_stored_nor_here_is_told_with_the_fix(folder: Path) -> None:
    shutil.rmtree(folder / "bottle")
    found = problems(body(folder, bottles(folder), abnormal=["hole"], protocol="F0"))
    assert found[0] == f"data.sets.bottles: {folder / 'bottle'}: no such folder"
    assert "is not in" in found[1] and "--set data.sets.bottles.root=FOLDER" in found[1]
    assert len(found) == 2
    assert resolve(body(folder, bottles(folder), datasets=["digits"])).studies[0].datasets == ("digits",)


def test_classes_and_protocols_of_an_own_set_are_checked(folder: Path) -> None:
    assert resolve(body(folder, bottles(folder), abnormal=["any"])).studies[0].abnormal == ("any",)
    assert problems(body(folder, bottles(folder), abnormal=["good"])) == [
        "sweep.studies[0].abnormal: bottles has unknown class 'good' (legal: any, crack, hole)"
    ]
    assert problems(body(folder, bottles(folder), protocol="M0")) == [
        "sweep.studies[0].protocol: bottles has unknown protocol 'M0', did you mean 'F0'? (legal: F0, P1)"
    ]
    assert problems(body(folder, bottles(folder), datasets=["botles"]))[0].startswith(
        "sweep.studies[0].datasets: unknown dataset 'botles', did you mean 'bottles'?"
    )


def test_a_search_that_reports_other_classes_than_it_tuned_on_cannot_hunt_all_of_them(folder: Path) -> None:
    search = {"kind": "search", "detectors": ["ganomaly"], "objective": "transfer"}
    found = problems(body(folder, bottles(folder), abnormal=["hole", "any"], **search))
    assert found == [
        "sweep.studies[0]: abnormal: any is every class, so none is left that is not used for tuning; name classes"
    ]


def test_own_sets_are_listed_as_their_folders_are_until_they_are_stored(folder: Path) -> None:
    found = resolve(body(folder, bottles(folder), datasets=["digits"]))
    console = Console(file=io.StringIO(), width=200)
    console.print(cli_datasets.table(cli_datasets.listing(found)))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert re.search(r"bottles +not stored +- +- +F0, P1 +- +good, crack, hole", shown)
    put(found, "bottles")
    console.print(cli_datasets.table(cli_datasets.listing(found)))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert re.search(r"bottles +s16-bilinear-1-\w{8} +39 +0\.0 +F0, P1 +\w{12} +good 30, crack 4, hole 5", shown)


def put(found: Sweep, name: str) -> list[str]:
    """Put a dataset into the store, and return the lines that the command prints."""
    console = Console(file=io.StringIO(), width=200)
    cli_datasets.put(found, name, console)
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined, no-any-return]


def test_a_launch_puts_again_what_has_a_damaged_manifest(folder: Path) -> None:
    found = resolve(body(folder, bottles(folder)))
    store, console = open_store(found.storage), Console(file=io.StringIO())
    assert datasets.unusable(store, found) == ["bottles"]
    put_missing(found, store, console)
    assert datasets.unusable(store, found) == []
    (manifest,) = (folder / "store/datasets/bottles").rglob("manifest.json")
    whole = manifest.read_bytes()
    manifest.write_bytes(whole[:-9])
    assert datasets.unusable(store, found) == ["bottles"]
    put_missing(found, store, console)
    assert manifest.read_bytes() == whole


def test_a_stored_set_is_planned_verified_and_listed_without_its_folder(folder: Path) -> None:
    raw = body(folder, bottles(folder))
    before = resolve(raw)
    assert put(before, "bottles")[0].startswith("bottles: 39 images in the store, fingerprint")
    shutil.rmtree(folder / "bottle")
    after = resolve(raw)
    assert after == before
    with pytest.raises(UserError, match="no such folder"):
        put(after, "bottles")
    assert cli_datasets.verify(after, ["bottles"], Console(file=io.StringIO()))
    shard = next((folder / "store/datasets/bottles").rglob("*.parquet"))
    shard.write_bytes(shard.read_bytes()[:-1])
    assert not cli_datasets.verify(after, ["bottles"], Console(file=io.StringIO()), repair=True)  # no folder
    write_images(folder / "bottle", MVTEC)
    assert cli_datasets.verify(after, ["bottles"], Console(file=io.StringIO()), repair=True)
    entry = next(entry for entry in cli_datasets.listing(after) if entry["name"] == "bottles")
    assert entry["counts"] == {"good": 30, "crack": 4, "hole": 5} and entry["protocols"] == ["F0", "P1"]
    with pytest.raises(UserError, match="unknown dataset 'botles', did you mean 'bottles'"):
        put(after, "botles")


def test_what_verify_cannot_judge_it_does_not_call_damaged(folder: Path) -> None:
    output = io.StringIO()
    settings = resolve(body(folder, bottles(folder)))
    assert cli_datasets.verify(settings, [], Console(file=output)) and "no dataset is stored" in output.getvalue()
    put(settings, "bottles")
    manifest = next((folder / "store/datasets/bottles").rglob("manifest.json"))
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "format": 99}))
    assert not cli_datasets.verify(settings, ["bottles"], Console(file=output), repair=True)
    assert ": of a newer version" in output.getvalue() and "damaged" not in output.getvalue()
    assert {entry["fingerprint"] for entry in cli_datasets.listing(settings)} == {None, "of a newer version"}
    manifest.unlink()
    assert not cli_datasets.verify(settings, ["bottles"], Console(file=output)) and ": unfinished" in output.getvalue()
    assert cli_datasets.verify(settings, ["bottles"], Console(file=output), repair=True)


def test_what_another_configuration_stored_is_listed_and_verified(folder: Path) -> None:
    put(resolve(body(folder, bottles(folder))), "bottles")
    others = resolve({**body(folder, {"animals": {"layout": "classes", "root": str(folder / "animals")}})})
    entry = next(entry for entry in cli_datasets.listing(others) if entry["name"] == "bottles")
    assert entry["images"] == sum(MVTEC.values())
    assert cli_datasets.verify(others, ["bottles"], Console(file=io.StringIO()))


def test_put_says_what_was_skipped_and_what_stands_in_both_splits(folder: Path) -> None:
    (folder / "bottle/train/good/000.png").write_bytes(b"no image")
    shutil.copy(folder / "bottle/train/good/001.png", folder / "bottle/test/good/copy.png")
    raw = body(folder, bottles(folder))
    with pytest.raises(UserError, match=r"000\.png: is not an image"):
        put(resolve(raw), "bottles")
    raw["data"]["on_bad"] = "skip"
    warnings = put(resolve(raw), "bottles")[1:]
    (stored,) = (
        path for path in Path(raw["storage"]).glob("datasets/bottles/*/manifest.json") if "000.png" in path.read_text()
    )
    assert warnings == [
        f"  skipped 1 images that could not be read, all listed in {stored}:",
        "    train/good/000.png: is not an image, or an image of an unknown kind",
        "  warning: 1 images of the test split are also in the train split and 1 images repeat another one, pixel for "
        "pixel; splits keep them on one side",
    ]


def test_a_private_set_whose_counts_are_not_the_published_ones_is_put_with_a_warning(folder: Path) -> None:
    write_images(folder / "ffob", {"normal": 3, "full-weapon": 1})
    raw = body(folder, {}, datasets=["ffob"])
    raw["data"]["root"] = str(folder)
    assert put(resolve(raw), "ffob")[1:] == [
        "  warning: 3 images of class normal, published: 67,672",
        "  warning: 1 images of class full-weapon, published: 4,680",
    ]


def test_the_root_of_a_set_can_be_set_on_the_command_line(folder: Path) -> None:
    config = written(folder, body(folder, {"bottles": {"layout": "mvtec", "root": "nowhere"}}))
    found = load(config, [f"data.sets.bottles.root={folder / 'bottle'}"])
    assert found.dataset("bottles").images == 39


def test_a_plan_of_own_sets_loads_neither_numpy_nor_torch(folder: Path) -> None:
    config = written(folder, body(folder, bottles(folder)))
    code = (
        "import sys, runpy; sys.argv = ['sweep', 'plan', sys.argv[1]]\n"
        "try: runpy.run_module('sweep', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "print([name for name in ('numpy', 'torch', 'PIL', 'pyarrow', 'ray') if name in sys.modules])"
    )
    for _ in range(2):  # first planned from the folder, then from the store
        command = [sys.executable, "-c", code, str(config)]
        done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=True)
        assert "2 trials = 0 done" in done.stdout, done.stderr
        assert done.stdout.splitlines()[-1] == "[]", done.stdout
        put(load(config), "bottles")


def test_the_schema_shows_the_keys_of_own_sets() -> None:
    shown = text()
    for line in ("data.on_bad = fail", "data.sets.NAME.root (must be given)", "data.sets.NAME.layout: mvtec"):
        assert line in shown
    assert "data.found" not in shown


def test_the_example_of_the_page_of_datasets_is_put_planned_and_trained(folder: Path) -> None:
    page = (ROOT / "data/README.md").read_text()
    shown = re.search(r"```yaml\n(# my-images\.yaml\n.*?)```", page, re.DOTALL)
    assert shown is not None
    example = shown.group(1).replace("FOLDER", str(folder)).replace("./results", str(folder / "store"))
    config = folder / "my-images.yaml"
    config.write_text(example)
    stored = sweep("data", "put", "bottles", config)
    assert stored.returncode == 0 and stored.stdout.startswith("bottles: 39 images in the store"), stored.stderr
    asked = load(config, [])
    planned = expand(asked, platform(asked)).fixed
    assert plan_of(config)["trials"] == len({trial.key for trial in planned})
    key = next(trial.key for trial in planned if (trial.dataset, trial.detector) == ("animals", "knn"))
    ran = sweep("trial", config, key, "--set", f"data.cache={folder / 'cache'}", "--json")  # puts the dataset first
    assert ran.returncode == 0, ran.stderr
    result = json.loads(ran.stdout)
    assert (result["status"], result["spec"]["protocol"]) == ("ok", "C1")


def revisions(sweep: Sweep) -> set[int]:
    return {planned.spec.protocol_revision for planned in expand(sweep, platform(sweep)).fixed}


def test_trials_keep_their_keys_where_a_dataset_was_stored_before_and_has_no_equal_images(folder: Path) -> None:
    """A dataset that is new, or that has equal images, gets the later revision: other results do not count for it."""
    raw = body(folder, {"animals": {"layout": "classes", "root": str(folder / "animals")}})
    sweep = resolve(raw)
    assert revisions(sweep) == {2}, "nothing is stored yet"
    store = open_store(sweep.storage)
    put_missing(sweep, store, Console(quiet=True))
    assert revisions(resolve(raw)) == {2}, "the keys of a launch that has put it"
    path = f"datasets/animals/{sweep.preparation('animals')}/manifest.json"
    manifest = json.loads(store.get(path))
    del manifest["repeats"]
    for duplicates, expected in ((0, {1}), (2, {2})):
        store.put(path, json.dumps({**manifest, "format": 2, "duplicates": duplicates}).encode())
        assert revisions(resolve(raw)) == expected
        recorded = json.loads(json.dumps(record(sweep, platform(sweep))))
        del recorded["sweep"]["data"]["found"]["animals"]["revised"]  # as an older version wrote it
        again, _ = read_back(recorded, Ledger(store, sweep.name), 1, sweep.storage)
        assert revisions(again) == expected, "results of an older launch are stale in its own report, too"
    store.delete_tree("datasets")
    again, _ = read_back(recorded, Ledger(store, sweep.name), 1, sweep.storage)
    assert revisions(again) == {1}, "nobody knows any more"
