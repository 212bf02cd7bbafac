"""Studies that come with the package: what they ask, how a sweep narrows them, and what is left out with a line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from data import catalog
from sweep.errors import UserError
from sweep.plan.expand import Planned, expand
from sweep.plan.platform import Platform
from sweep.spec import yamlfile
from sweep.spec.load import resolve
from sweep.spec.named_studies import named_studies
from sweep.spec.sweep import Sweep
from sweep.spec.trial import Numerics
from sweep.store import open_store

REPLICATIONS = ("ganomaly_paper", "ganomaly_paper_runtime", "skip_ganomaly_paper")
CPU = Platform(device="cpu", numerics=Numerics(), slots=2, cpus=1, gpus=0.0)


def named(study: str, storage: str = "./r", root: Path | None = None, **keys: Any) -> Sweep:
    data = {} if root is None else {"data": {"root": str(root)}}
    return resolve({"storage": storage, **data, "sweep": {"study": study, **keys}})


def problems_of(study: str, **keys: Any) -> list[str]:
    with pytest.raises(UserError) as caught:
        named(study, **keys)
    return caught.value.problems


def trials_of(sweep: Sweep, study: str) -> list[Planned]:
    return [planned for planned in expand(sweep, CPU).fixed if planned.study == study]


@pytest.mark.parametrize("name", sorted(named_studies()))
def test_every_named_study_is_valid_and_its_file_has_known_keys(name: str) -> None:
    assert named(name).studies
    assert set(yamlfile.read(named_studies()[name])) <= {"studies", "trial", "notes", "replicates"}


@pytest.mark.parametrize("study", sorted(set(named_studies()) - {"runtime", *REPLICATIONS}))
@pytest.mark.parametrize("detector", ["ganomaly", "skip_ganomaly"])
def test_a_named_study_can_be_narrowed_to_one_detector(study: str, detector: str) -> None:
    found = named(study, detectors=[detector])
    assert {name for each in found.studies for name in each.detectors} == {detector}


def test_what_a_detector_does_not_have_is_left_out_of_a_named_study_with_a_line() -> None:
    found = named("weights", detectors=["skip_ganomaly"])
    assert set(found.studies[0].axes) == {"w_adv", "w_con", "w_lat"}
    assert found.notes == ("study weights: left out, because skip_ganomaly has no w_enc",)
    assert named("weights").notes == ()

    board = named("quickstart", detectors=["knn"])
    assert [study.name for study in board.studies] == ["board"]
    assert board.studies[0].variants == ("default",)
    assert "study tuned is left out: knn has none of its space" in board.notes


def test_a_search_keeps_only_what_the_named_detector_has() -> None:
    found = named("quickstart", detectors=["skip_ganomaly"])
    (tuned,) = [study for study in found.studies if study.kind == "search"]
    assert isinstance(tuned.space, dict) and "w_enc" not in tuned.space and "w_adv" in tuned.space
    assert "study tuned: left out, because skip_ganomaly has no w_enc" in found.notes


def test_a_study_of_which_nothing_is_left_is_one_problem() -> None:
    assert problems_of("nz", detectors=["knn"]) == [
        "sweep: no study is left: study nz is left out: knn has none of its axes"
    ]


@pytest.mark.parametrize("study", ["quickstart", *REPLICATIONS])
def test_boards_that_many_compare_are_in_float32_unless_the_user_says_otherwise(study: str) -> None:
    assert named(study).trial.precision == "float32"
    own = resolve({"storage": "./r", "trial": {"precision": "bf16", "retries": 0}, "sweep": {"study": study}})
    assert (own.trial.precision, own.trial.retries) == ("bf16", 0)
    assert named("error_bars").trial.precision == "auto"


def test_the_quickstart_has_five_seeds() -> None:
    assert {study.seeds for study in named("quickstart").studies} == {(0, 1, 2, 3, 4)}


@pytest.mark.parametrize(
    ("study", "part", "dataset", "protocol", "detectors"),
    [
        ("ganomaly_paper", "mnist", "mnist", "M1", {"ganomaly", "anogan", "egbad"}),
        ("ganomaly_paper", "cifar10", "cifar10", "C1", {"ganomaly", "anogan", "egbad"}),
        ("skip_ganomaly_paper", "cifar10", "cifar10", "C0", {"skip_ganomaly", "ganomaly", "anogan", "egbad"}),
    ],
)
def test_the_tables_of_the_papers_are_run_as_they_report_them(
    study: str, part: str, dataset: str, protocol: str, detectors: set[str]
) -> None:
    trials = trials_of(named(study), part)
    assert {planned.detector for planned in trials} == detectors
    assert {planned.spec.dataset for planned in trials} == {dataset}
    assert {planned.protocol for planned in trials} == {protocol}
    assert {planned.abnormal for planned in trials} == {*catalog.dataset(dataset).classes}
    assert {(planned.split_seed, planned.seed) for planned in trials} == {(0, 0), (1, 1), (2, 2)}
    assert {planned.spec.evaluations for planned in trials} == {("clean", "legacy_shuffled")}
    of_paper = [planned for planned in trials if planned.detector == study.removesuffix("_paper")]
    assert {planned.variant for planned in of_paper} == {"paper", "repo_2018", "repo_head"}
    assert {planned.spec.eval_every for planned in of_paper} == {1}, "the best epoch needs every epoch"
    assert len(of_paper) == 3 * 10 * 3


@pytest.mark.parametrize(
    ("study", "last", "weight"), [("ganomaly_paper", "w_enc", 50.0), ("skip_ganomaly_paper", "w_lat", 40.0)]
)
def test_the_grids_of_the_papers_vary_around_the_paper(study: str, last: str, weight: float) -> None:
    sweep = named(study)
    trials = trials_of(sweep, "weights")
    assert {planned.axis for planned in trials} == {"w_adv", "w_con", last}
    centres = {(planned.axis, planned.value) for planned in trials if planned.centre}
    assert centres == {("w_adv", 1.0), ("w_con", weight), (last, 1.0)}
    assert {planned.value for planned in trials_of(sweep, "nz") if planned.centre} == {100}
    assert {planned.variant for planned in trials} == {"paper"}


def test_the_runtimes_of_a_paper_are_a_sweep_of_their_own_that_each_plan_names() -> None:
    tables, runtime = named("ganomaly_paper"), named("ganomaly_paper_runtime")
    assert any("sweep.study=ganomaly_paper_runtime" in note for note in tables.notes)
    assert any("sweep.study=ganomaly_paper" in note for note in runtime.notes)
    assert runtime.exclusive and not tables.exclusive
    assert set(runtime.studies[0].detectors) == {"anogan", "egbad", "ganomaly"}


def test_a_replication_is_narrowed_to_what_a_sweep_names() -> None:
    found = named("ganomaly_paper", datasets=["mnist"], detectors=["ganomaly"], variants=["paper"], abnormal=[2, 3])
    assert [study.name for study in found.studies] == ["mnist", "nz", "weights"]
    assert found.studies[0].abnormal == ("2", "3") and found.studies[1].abnormal == ("2",)
    assert {(planned.dataset, planned.detector, planned.variant) for planned in expand(found, CPU).fixed} == {
        ("mnist", "ganomaly", "paper")
    }
    assert "study cifar10 is left out: it has none of sweep.datasets" in found.notes

    other = named("ganomaly_paper", detectors=["anogan"])
    assert [study.name for study in other.studies] == ["mnist", "cifar10"], "the paper has no grid of AnoGAN"
    assert [study.name for study in named("ganomaly_paper", detectors="all").studies][:2] == ["mnist", "cifar10"]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"detectors": ["knn"]}, "sweep.detectors: study ganomaly_paper has unknown detector 'knn' (legal: anogan, "),
        ({"datasets": ["digits"]}, "sweep.datasets: study ganomaly_paper has unknown dataset 'digits' (legal: "),
        ({"variants": ["papr"]}, "did you mean 'paper'"),
        ({"abnormal": ["cow"]}, "sweep.abnormal: study ganomaly_paper has unknown class 'cow'"),
    ],
)
def test_nothing_is_put_in_the_place_of_a_papers_experiments(keys: dict[str, Any], message: str) -> None:
    (problem,) = problems_of("ganomaly_paper", **keys)
    assert message in problem


def test_a_private_dataset_is_left_out_with_a_line_where_the_user_does_not_have_it(
    tmp_path: Path, folder_url: str
) -> None:
    def datasets(sweep: Sweep) -> set[str]:
        return {name for study in sweep.studies for name in study.datasets}

    absent = named("skip_ganomaly_paper", folder_url)
    assert datasets(absent) == {"cifar10"}
    assert [note.split(":")[0] for note in absent.notes] == ["dataset uba is left out", "dataset ffob is left out"]
    assert datasets(named("skip_ganomaly_paper", folder_url, datasets=["uba"])) == {"uba"}, "it was asked for"

    (tmp_path / "ffob").mkdir()
    assert datasets(named("skip_ganomaly_paper", folder_url, tmp_path)) == {"cifar10", "ffob"}

    preparation = catalog.dataset("uba").preparation(64)
    open_store(folder_url).put(f"datasets/uba/{preparation}/manifest.json", b"{}")
    stored = named("skip_ganomaly_paper", folder_url, tmp_path)
    assert datasets(stored) == {"cifar10", "uba", "ffob"}
    assert stored.notes == ()
