"""The catalog: its facts without torch, the resolution of hyperparameters, and the look-up of names."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from models.catalog import DETECTORS, UnknownDetector, detector, load_class, resolve
from models.detector import Detector
from models.hyperparameters import describe, hyperparameter
from models.info import DetectorInfo, Variant
from models.scoring import combine

GANOMALY = DETECTORS["ganomaly"]


def test_the_catalog_imports_neither_torch_nor_numpy() -> None:
    code = "import sys, models.catalog; print({'torch', 'numpy', 'sklearn'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize("name", DETECTORS)
def test_every_entry_names_its_class_and_describes_every_hyperparameter(name: str) -> None:
    info = detector(name)
    loaded = load_class(info.implementation)
    assert issubclass(loaded, Detector) and info.name == name and info.doc
    assert loaded.Hyperparameters is info.hyperparameters
    for field in info.fields:
        assert field.doc and field.coerce(field.default) == field.default
        assert field.search is None or set(field.search) in ({"choices"}, {"low", "high", "log"})
        ends = (field.search or {}).get("choices") or [
            (field.search or {}).get(end, field.default) for end in ("low", "high")
        ]
        assert all(field.coerce(end) == end for end in ends)
    assert info.trains_by_epoch == ("epochs" in {field.name for field in info.fields})
    for variant in info.variants:
        resolve(info, variant, {})


def test_published_defaults() -> None:
    common = {"epochs": 15, "batch_size": 64, "lr": 2e-4, "beta1": 0.5, "nz": 100, "width": 64}
    weights = {"w_adv": 1.0, "w_con": 50.0, "early_stopping": False}
    assert resolve(GANOMALY, "repo_head", {}) == {**common, **weights, "w_enc": 1.0}
    assert resolve(DETECTORS["skip_ganomaly"], "repo_head", {}) == {**common, **weights, "w_lat": 1.0}
    assert GANOMALY.default_variant == DETECTORS["skip_ganomaly"].default_variant == "repo_head"
    assert GANOMALY.variant("repo_head").lam == 0.0
    assert DETECTORS["skip_ganomaly"].variant("repo_head").lam == 0.9


@pytest.mark.parametrize(
    ("name", "variant", "lam", "differing"),
    [
        ("ganomaly", "repo_2018", 0.0, {}),
        ("ganomaly", "paper", 0.0, {"lr": 2e-3}),
        ("skip_ganomaly", "repo_2018", 0.0, {"w_con": 1.0}),
        ("skip_ganomaly", "paper", 0.9, {"lr": 2e-3, "w_con": 40.0, "early_stopping": True}),
    ],
)
def test_a_variant_differs_from_the_default_in_what_its_source_says(
    name: str, variant: str, lam: float, differing: dict[str, Any]
) -> None:
    info = DETECTORS[name]
    assert resolve(info, variant, {}) == {**resolve(info, "repo_head", {}), **differing}
    assert info.variant(variant).lam == lam


def test_untrained_stays_untrained_whatever_a_study_sets() -> None:
    assert resolve(GANOMALY, "untrained", {"epochs": 7, "nz": 5})["epochs"] == 0
    assert resolve(GANOMALY, "untrained", {"epochs": 7, "nz": 5})["nz"] == 5


def test_a_variants_overrides_are_defaults_that_a_study_may_replace() -> None:
    info = dataclasses.replace(GANOMALY, variants={"paper": Variant(overrides={"lr": 2e-3})})
    assert resolve(info, "paper", {})["lr"] == 2e-3
    assert resolve(info, "paper", {"lr": 1e-4})["lr"] == 1e-4


@pytest.mark.parametrize(
    ("variant", "name", "value"),
    [
        ("repo_head", "lr", 2e-4),
        ("paper", "lr", 2e-3),
        ("paper", "epochs", None),  # differs between datasets
        ("untrained", "epochs", 0),
        ("repo_head", "lambda", 0.0),
        ("repo_head", "steps", None),  # a hyperparameter of another detector
    ],
)
def test_default_of_a_hyperparameter_by_variant(variant: str, name: str, value: float | None) -> None:
    assert GANOMALY.default(variant, name) == value


@pytest.mark.parametrize(("given", "value"), [("2e-4", 2e-4), (1, 1.0), ("1", 1.0), (0.5, 0.5), (0, 0.0)])
def test_floats_are_coerced(given: object, value: float) -> None:
    lr = resolve(GANOMALY, "repo_head", {"lr": given})["lr"]
    assert lr == value and type(lr) is float


@pytest.mark.parametrize("given", [32, 32.0, "32"])
def test_whole_numbers_are_coerced(given: object) -> None:
    nz = resolve(GANOMALY, "repo_head", {"nz": given})["nz"]
    assert nz == 32 and type(nz) is int


@pytest.mark.parametrize("given", [0, -3, 5000, 2.5, "2.5", "many", True, None, [32], float("nan")])
def test_illegal_whole_numbers_are_refused_with_the_legal_ones(given: object) -> None:
    with pytest.raises(ValueError, match=r"nz=.* an integer from 1 to 4096"):
        resolve(GANOMALY, "repo_head", {"nz": given})


@pytest.mark.parametrize("given", [float("nan"), float("inf"), -1, 2, "fast", False])
def test_illegal_floats_are_refused_with_the_legal_ones(given: object) -> None:
    with pytest.raises(ValueError, match=r"lr=.* a number from 0 to 1"):
        resolve(GANOMALY, "repo_head", {"lr": given})


def test_all_problems_are_told_at_once_the_nearest_name_first() -> None:
    with pytest.raises(ValueError) as problem:
        resolve(GANOMALY, "repohead", {"widht": 3, "nz": 0, "lr": "x", "w_adv": -1})
    for part in (
        "variant repohead",
        "legal names are repo_head",
        "legal names are width, epochs",
        "nz=0",
        "lr='x'",
        "w_adv=-1",
    ):
        assert part in str(problem.value)


@dataclass(frozen=True)
class Every:
    flag: bool = False
    word: str = hyperparameter("a", "a word", choices=("a", "b"))
    free: str = "anything"
    plain: int = 3
    rate: float = 0.5


def every(**overrides: object) -> dict[str, Any]:
    info = dataclasses.replace(GANOMALY, hyperparameters=Every, variants={"plain": Variant()})
    return resolve(info, "plain", overrides)


def test_flags_and_words_are_coerced() -> None:
    assert every(flag="true", word="b", free="x", plain=-7, rate="-1e9") == {
        "flag": True, "word": "b", "free": "x", "plain": -7, "rate": -1e9,
    }  # fmt: skip


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "-inf"])
def test_illegal_flags_words_and_endless_numbers_are_refused(value: object) -> None:
    with pytest.raises(ValueError) as problem:
        every(flag="perhaps", word="c", free=3, rate=value)
    for part in ("true or false", "one of a, b", "free=3", "rate="):
        assert part in str(problem.value)


def test_hyperparameters_must_be_a_frozen_dataclass_of_plain_values_with_defaults() -> None:
    @dataclass
    class Thawed:
        nz: int = 3

    @dataclass(frozen=True)
    class WithoutDefault:
        nz: int

    @dataclass(frozen=True)
    class WithList:
        sizes: tuple[int, ...] = (1, 2)

    for bad in (Thawed, WithoutDefault, WithList, int):
        with pytest.raises(ValueError, match=r"hyperparameters|needs a default"):
            describe(bad)


def test_an_unknown_name_lists_the_detectors_nearest_first() -> None:
    with pytest.raises(UnknownDetector, match="legal names are skip_ganomaly, ganomaly, anogan"):
        detector("skip_ganomly")


@pytest.mark.parametrize(
    "name",
    [
        "no.such.module:Class",
        "models.ganomaly:NoSuchClass",
        "models.catalog:Variant",
        "models.ganomaly:",
        ":",
    ],
)
def test_an_own_detector_that_is_none_is_refused_with_the_form(name: str) -> None:
    with pytest.raises(UnknownDetector, match=r"package\.module:Class|models\.detector\.Detector"):
        detector(name)


def test_an_own_detector_is_known_by_its_class_attributes() -> None:
    info = detector("tests.own_detector:DenoisingAutoencoder")
    assert isinstance(info, DetectorInfo)
    assert info.name == info.implementation == "tests.own_detector:DenoisingAutoencoder"
    assert info.variants == {"plain": Variant(lam=None)}
    assert info.trains_by_epoch and not info.deterministic and not info.reference and info.revision == 1
    assert info.doc == (
        "Autoencoder that learns to remove noise from normal images; its score is the squared error of its output."
    )


def test_lambda_weighs_reconstruction_against_latent_in_float64() -> None:
    parts = {"reconstruction": np.array([1, 2], np.float32), "latent": np.array([3, 10], np.float32)}
    np.testing.assert_allclose(combine(parts, 0.9), [1.2, 2.8], rtol=1e-7)
    assert combine(parts, 0.9).dtype == np.float64


def test_a_part_of_weight_zero_cannot_spoil_the_score() -> None:
    parts = {"reconstruction": np.array([np.inf, np.nan]), "latent": np.array([3.0, 4.0])}
    assert combine(parts, 0.0).tolist() == [3, 4]
    assert combine({"reconstruction": parts["latent"], "latent": parts["reconstruction"]}, 1.0).tolist() == [
        3,
        4,
    ]


@pytest.mark.parametrize(
    ("names", "lam"),
    [
        (["score"], 0.5),
        (["reconstruction", "latent"], None),
        (["reconstruction"], 0.5),
        (["reconstruction", "latent"], 1.5),
    ],
)
def test_lambda_and_components_that_do_not_go_together_are_refused(names: list[str], lam: float | None) -> None:
    with pytest.raises(ValueError, match="does not fit the components"):
        combine({name: np.zeros(2) for name in names}, lam)
