"""A YAML file determines exactly what runs, and all of its problems are reported at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sweep.errors import UserError
from sweep.spec import yamlfile
from sweep.spec.load import load, resolve
from sweep.spec.schema import text
from sweep.spec.sweep import Sweep

ROOT = Path(__file__).parents[2]
STUDY: dict[str, Any] = {
    "name": "s", "kind": "error_bars", "datasets": ["digits"], "detectors": ["ganomaly", "pca"],
    "abnormal": [0],
}  # fmt: skip


def sweep_of(study: dict[str, Any], **top: Any) -> Sweep:
    return resolve({"storage": "./r", "sweep": {"studies": [{**STUDY, **study}]}, **top})


def problems_of(raw: dict[str, Any]) -> list[str]:
    with pytest.raises(UserError) as caught:
        resolve(raw)
    return caught.value.problems


def problems_in_study(**keys: Any) -> list[str]:
    return problems_of({"storage": "./r", "sweep": {"studies": [{**STUDY, **keys}]}})


def test_all_problems_are_reported_at_once_each_with_its_place() -> None:
    problems = problems_of(
        {
            "storage": "./r",
            "sweeep": 1,
            "cluster": {"provider": "local", "cpu": 3},
            "trial": {"checkpoint_seconds": "often", "keep": "some"},
            "sweep": {
                "studies": [
                    {**STUDY, "detectors": ["ganomali"], "seeds": [], "colour": 1},
                    {
                        **STUDY,
                        "name": "t",
                        "abnormal": [0, 11],
                        "hyperparameters": {"ganomaly": {"nz": "big", "x": 1}},
                    },
                ]
            },
        }
    )
    expected = [
        ("sweeep", "did you mean 'sweep'"),
        ("cluster", "'cpu', did you mean 'cpus'"),
        ("trial.checkpoint_seconds", "number"),
        ("trial.keep", "'best', 'all' or 'none'"),
        ("sweep.studies[0].detectors", "ganomali"),
        ("sweep.studies[0].seeds", "a count of at least 1"),
        ("sweep.studies[0]", "'colour'"),
        ("sweep.studies[1].abnormal", "'11'"),
        ("sweep.studies[1].hyperparameters", "nz='big'"),
        ("sweep.studies[1].hyperparameters", "x is not a hyperparameter"),
    ]
    for place, message in expected:
        assert any(place in problem and message in problem for problem in problems), (place, message, problems)
    assert len(problems) == len(expected)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"datasets": ["digit"]}, "did you mean 'digits'? (legal: "),
        ({"datasets": []}, "must be a list"),
        ({"abnormal": []}, "class names"),
        ({"abnormal": [0, 0]}, "more than once"),
        ({"detectors": "none"}, "must be all, or a list of names"),
        ({"protocol": "M0"}, "legal: D1"),
        ({"variants": ["papr"]}, "unknown variant"),
        ({"seeds": [1000]}, "less than 1000"),
        ({"kind": "grid"}, "axes: must be given"),
        ({"axes": {"nz": [1]}}, "only a study of kind grid"),
        ({"kind": "grid", "axes": {"nzz": [1]}}, "did you mean 'nz'"),
        ({"kind": "grid", "axes": {"nz": [0]}}, "nz=0 is not legal"),
        ({"kind": "grid", "axes": {"nz": []}}, "at least one value"),
        ({"candidates": 3}, "only a study of kind search"),
        ({"kind": "search", "space": ["nzz"]}, "did you mean 'nz'"),
        ({"kind": "search", "space": {"nz": {"low": 9, "high": 1}}}, "low: 1, high: 9"),
        ({"kind": "search", "objective": "transfer"}, "at least 2 abnormal classes"),
        ({"kind": "search", "detectors": ["constant"]}, "none of them has a hyperparameter"),
        ({"kind": "search", "tuning_seeds": [3]}, "greater than or equal to 1000"),
        ({"hyperparameters": {"all": {"widht": 3}}}, "did you mean 'width'"),
        ({"hyperparameters": {"ganomaly": {"lambda": 2}}}, "a number from 0 to 1"),
        ({"hyperparameters": {"ganomly": {}}}, "unknown detector"),
        ({"name": "a/b"}, "pattern"),
    ],
)
def test_each_problem_says_what_is_legal(keys: dict[str, Any], message: str) -> None:
    problems = problems_in_study(**keys)
    assert any(message in problem for problem in problems), problems


def test_a_value_of_no_legal_kind_is_one_problem_with_every_kind() -> None:
    problems = problems_of({"storage": "./r", "trial": {"gpus": "two"}, "sweep": {"study": "quickstart"}})
    (problem,) = problems
    assert problem.startswith("trial.gpus: input should be 'auto', or a valid number") and problem.endswith(
        ", is 'two'"
    )


def test_a_mistyped_key_of_the_sweep_finds_those_that_no_study_has() -> None:
    (problem,) = problems_of({"storage": "./r", "sweep": {"study": "quickstart", "studys": 1}})
    assert "did you mean 'study'" in problem and "studies" in problem


def test_all_classes_of_the_one_class_protocol_are_named_after_the_normal_one() -> None:
    body = {"study": "error_bars", "datasets": ["cifar10", "mnist"], "protocol": "O1", "detectors": ["pca"]}
    (study,) = resolve({"storage": "./r", "sweep": body}).studies
    assert study.abnormal[0] == "not airplane" and study.abnormal[-1] == "not 9" and len(study.abnormal) == 20
    problem = "\n".join(problems_of({"storage": "./r", "sweep": {**body, "abnormal": ["cat"]}}))
    assert "has unknown class 'cat'" in problem and "not cat" in problem
    (problem,) = problems_of({"storage": "./r", "sweep": {**body, "protocol": "M1", "datasets": ["mnist"],
                                                          "abnormal": ["not 3"]}})  # fmt: skip
    assert "mnist has unknown class 'not 3'" in problem


def test_a_named_study_takes_the_keys_of_the_sweep() -> None:
    sweep = resolve({"storage": "./r", "sweep": {"study": "quickstart", "seeds": 2, "abnormal": [5, 6, 7, 8]}})
    assert {study.seeds for study in sweep.studies} == {(0, 1)}
    assert all(study.abnormal == ("5", "6", "7", "8") for study in sweep.studies)


def test_a_problem_in_a_key_of_the_sweep_is_reported_once_and_there() -> None:
    problems = problems_of({"storage": "./r", "sweep": {"study": "quickstart", "datasets": ["digts"]}})
    assert len(problems) == 1
    assert problems[0].startswith("sweep.datasets: unknown dataset 'digts'")


def test_every_key_can_be_overridden(tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("storage: a\nsweep: {study: quickstart}\n")
    over = [
        "storage=b",
        "sweep.seeds=[4]",
        "trial.retries=0",
        "sweep.hyperparameters.all.epochs=1",
        "sweep.name=x",
    ]
    sweep = load(config, over)
    assert (sweep.storage, sweep.name, sweep.trial.retries) == ("b", "x", 0)
    assert all(study.seeds == (4,) for study in sweep.studies)
    board = sweep.studies[0].hyperparameters
    assert board["all"]["epochs"] == 1
    assert board["all"]["nz"] == 32, "what is not overridden stays"


@pytest.mark.parametrize("assignment", ["nonsense", "=1", "storage.x=1", "sweep.studies.7.seeds=1", "a={"])
def test_an_override_that_cannot_be_laid_over_is_a_problem(tmp_path: Path, assignment: str) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("storage: a\nsweep: {studies: [{}]}\n")
    with pytest.raises(UserError, match="--set"):
        load(config, [assignment])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("storage: [", "c.yaml:1:11: not valid YAML"),
        ("a: 1\na: 2\n", "'a' is given twice"),
        ("- 1\n", "must contain keys and values"),
        ("", "storage: must be"),
        ("storage: x\nsweep: 3\n", "sweep: must be given"),
    ],
)
def test_a_file_that_holds_no_sweep_is_a_problem(tmp_path: Path, content: str, message: str) -> None:
    config = tmp_path / "c.yaml"
    config.write_text(content)
    with pytest.raises(UserError) as caught:
        load(config)
    assert message in str(caught.value)


def test_a_missing_file_is_a_problem_that_lists_those_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"no such file \(here: none found\)"):
        load(Path("nowhere.yaml"))
    (tmp_path / "clusters").mkdir()
    (tmp_path / "clusters/mine.yaml").touch()
    with pytest.raises(UserError, match=r"no such file \(here: clusters/mine.yaml\)"):
        load(Path("nowhere.yaml"))


def test_a_sweep_on_s3_needs_a_name_of_its_own() -> None:
    problems = problems_of({"storage": "s3://b/p", "sweep": {"study": "quickstart"}})
    assert problems == ["sweep.name: must be given on S3, where a bucket is shared, e.g. sweep.name: my-table-1"]


def test_studies_need_different_names() -> None:
    problems = problems_of({"storage": "./r", "sweep": {"studies": [STUDY, STUDY]}})
    assert any("used twice: s" in problem for problem in problems)


@pytest.mark.parametrize("config", sorted((ROOT / "clusters").glob("*.yaml")), ids=lambda path: path.name)
def test_every_shipped_cluster_is_valid(config: Path) -> None:
    assert load(config).studies


def test_a_resolved_sweep_survives_json() -> None:
    sweep = resolve({"storage": "./r", "sweep": {"study": "quickstart"}})
    assert Sweep.model_validate_json(sweep.model_dump_json()) == sweep


def test_a_sweep_is_frozen() -> None:
    sweep = sweep_of({})
    with pytest.raises(ValueError, match="frozen"):
        sweep.storage = "elsewhere"  # type: ignore[misc]


def test_schema_prints_every_key_with_a_line_of_help() -> None:
    lines = text().splitlines()
    for key in ("trial.checkpoint_seconds", "cluster.provider", "abnormal", "tuning_seeds", "sweep.study"):
        assert any(line.strip().startswith(key) and len(line.split(": ", 1)[1]) > 10 for line in lines), key


def test_merging_replaces_lists_and_merges_mappings() -> None:
    base = {"a": {"x": 1, "y": [1, 2]}, "b": 1}
    assert yamlfile.merge(base, {"a": {"y": [3]}, "b": {"z": 1}}) == {"a": {"x": 1, "y": [3]}, "b": {"z": 1}}


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"kind": "search", "space": {"nz": {"low": -5, "high": 9000}}}, "nz=-5"),
        ({"kind": "search", "space": {"w_adv": {"choices": ["abc"]}}}, "w_adv='abc'"),
        (
            {"kind": "search", "space": ["nz"], "hyperparameters": {"ganomaly": {"lambda": 0.85}}},
            "lambda 0.85",
        ),
        ({"datasets": [[1]]}, "contains [1]"),
        ({"seeds": 100000}, "at most 1000 seeds"),
    ],
)
def test_what_could_only_fail_later_is_refused_now(keys: dict[str, Any], message: str) -> None:
    problems = problems_in_study(**keys)
    assert any(message in problem for problem in problems), problems


def test_a_size_that_no_detector_takes_is_refused() -> None:
    problems = problems_of({"storage": "./r", "data": {"size": 17}, "sweep": {"study": "quickstart"}})
    assert len(problems) == 1
    assert problems[0].startswith("data.size: input should be 16, 28, 32")


def test_datasets_of_one_study_may_differ_in_their_classes() -> None:
    sweep = sweep_of({"datasets": ["digits", "xray_synthetic"], "abnormal": "all"})
    assert set(sweep.studies[0].abnormal) == {*"0123456789", "gun", "gun-parts", "knife"}
    assert Sweep.model_validate(sweep.model_dump(mode="json")) == sweep
    (problem,) = problems_in_study(datasets=["digits", "xray_synthetic"], abnormal=["gun"])
    assert "digits has unknown class 'gun'" in problem
    assert len(problems_in_study(datasets=["digits", "xray_synthetic"], abnormal=[1, "gun", "bomb"])) == 2


def test_all_classes_are_hunted_unless_some_are_named() -> None:
    study = {key: value for key, value in STUDY.items() if key != "abnormal"}
    sweep = resolve({"storage": "./r", "sweep": {"studies": [study]}})
    assert sweep.studies[0].abnormal == tuple("0123456789")
