"""Departures from the papers and reduced budgets are said of every trial and line that claims to be a paper's."""

from __future__ import annotations

from typing import Any

import pytest

from models.catalog import DETECTORS, resolve
from sweep.leaderboard.board import build
from sweep.leaderboard.departures import Setting, board_captions, departures, planned_lines
from sweep.leaderboard.papers import reduced_budget
from sweep.leaderboard.rows import build_rows
from sweep.plan.expand import expand
from sweep.plan.platform import Platform
from sweep.spec import load
from sweep.spec.trial import Numerics


def setting(
    detector: str = "ganomaly", variant: str = "paper", dataset: str = "mnist", protocol: str = "M1", **fields: Any
) -> Setting:
    values = resolve(DETECTORS[detector], variant, fields.pop("hyperparameters", {}))
    return Setting(detector, variant, dataset, protocol, values, **fields)


def lines_of(study: str | None = None, precision: str = "float32", **keys: Any) -> list[str]:
    where = Platform(device="cpu", numerics=Numerics(precision), slots=2, cpus=1, gpus=0.0)
    asked = {"study": study, **keys} if study else {"studies": [keys]}
    return planned_lines(expand(load.resolve({"storage": "./r", "sweep": asked}), where))


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (setting(), ""),
        (setting(protocol="M0"), "protocol M0, where the paper has M1"),
        (setting(protocol="M1v"), "protocol M1v, where the paper has M1"),
        (setting(dataset="cifar10", protocol="C1"), ""),
        (setting(dataset="cifar10", protocol="C0"), ""),  # Skip-GANomaly's paper has GANomaly under C0
        (setting("skip_ganomaly", "repo_head", "cifar10", "C0"), ""),
        (setting("skip_ganomaly", "repo_head", "cifar10", "C1"), "protocol C1, where the paper has C0"),
        (setting(fixed_split=True), "one split for all seeds"),
        (setting("skip_ganomaly", "repo_head", "cifar10", "C0", fixed_split=True), ""),  # the source's own split
        (setting("skip_ganomaly", "paper", "cifar10", "C0"), "no early stopping"),
        (setting(precision="bf16"), "arithmetic bf16"),
        (setting(precision="float32"), ""),
        (setting("anogan", "dcgan"), "at most 2,000 test images"),
        (setting("anogan", "dcgan", hyperparameters={"max_test": 0}), ""),
        (setting(hyperparameters={"width": 16}), "width=16 instead of 64"),
        (setting(hyperparameters={"width": 16}, chosen=True), ""),  # a grid or a search says so itself
    ],
)
def test_each_departure_is_a_phrase_and_nothing_is_said_of_what_is_as_published(found: Setting, text: str) -> None:
    phrases = list(departures(found))
    assert len(phrases) == bool(text), phrases
    assert all(text in phrase for phrase in phrases)


@pytest.mark.parametrize(
    "found",
    [
        setting(dataset="digits", protocol="D1", precision="bf16", fixed_split=True),  # no paper has digits
        setting(variant="untrained", protocol="M0", precision="bf16"),
        setting("knn", "plain", protocol="M0"),
    ],
)
def test_what_claims_no_paper_departs_from_none(found: Setting) -> None:
    assert list(departures(found)) == []


@pytest.mark.parametrize(
    ("detector", "variant", "dataset", "epochs", "text"),
    [
        ("ganomaly", "repo_head", "mnist", 2, "2 of 15 epochs"),
        ("ganomaly", "repo_head", "mnist", 15, ""),
        ("ganomaly", "repo_head", "mnist", 30, ""),
        ("ganomaly", "paper", "cifar10", 15, "15 of 25 epochs"),
        ("ganomaly", "paper", "mnist", 15, ""),
        ("egbad", "repo", "mnist", 15, "15 of 100 epochs"),
        ("skip_ganomaly", "repo_2018", "digits", 1, "1 of 15 epochs"),
        ("ganomaly", "untrained", "mnist", 0, ""),
        ("autoencoder", "plain", "mnist", 1, ""),  # no paper
        ("tests.own_detector:DenoisingAutoencoder", "plain", "mnist", 1, ""),
    ],
)
def test_fewer_epochs_than_the_papers_are_a_reduced_budget(
    detector: str, variant: str, dataset: str, epochs: int, text: str
) -> None:
    assert reduced_budget(detector, variant, dataset, {"epochs": epochs}) == text
    assert reduced_budget(detector, variant, dataset, {}) == ""


def test_a_plan_names_the_studies_and_variants_that_depart() -> None:
    assert lines_of("ganomaly_paper", detectors=["ganomaly"]) == []
    assert lines_of("ganomaly_paper", detectors=["ganomaly"], hyperparameters={"all": {"epochs": 2}}) == [
        "Reduced budget: 2 of 15 epochs (mnist: ganomaly paper/repo_2018/repo_head; cifar10: ganomaly "
        "repo_2018/repo_head; nz: ganomaly paper; weights: ganomaly paper).",
        "Reduced budget: 2 of 25 epochs (cifar10: ganomaly paper).",
    ]
    table: dict[str, Any] = {
        "name": "t", "kind": "error_bars", "datasets": ["cifar10"], "detectors": ["skip_ganomaly", "knn"],
    }  # fmt: skip
    assert lines_of(**table) == [
        "Not the paper's setting: protocol C1, where the paper has C0 (t: skip_ganomaly repo_head).",
        "Not the paper's setting: one split for all seeds, where the published scripts draw one for each seed: "
        "split_seed: follow (t: skip_ganomaly repo_head).",
    ]
    assert lines_of(**table, protocol="C0", seeds=1) == []
    (early,) = lines_of("skip_ganomaly_paper", detectors=["skip_ganomaly"])
    assert "no early stopping" in early and "nz: skip_ganomaly paper" in early
    assert any("arithmetic bf16" in line for line in lines_of("ganomaly_paper", precision="bf16"))


def test_a_search_and_a_runtime_study_say_what_they_have() -> None:
    search: dict[str, Any] = {
        "name": "s", "kind": "search", "datasets": ["mnist"], "detectors": ["ganomaly"], "candidates": 2,
    }  # fmt: skip
    small = {"all": {"epochs": 1, "width": 8}}
    assert lines_of(**search, hyperparameters=small, split_seed="follow") == [
        "Reduced budget: 1 of 15 epochs (s: ganomaly repo_head)."
    ]
    assert lines_of("runtime") == []


def test_rows_and_captions_of_a_board_say_it_too() -> None:
    where = Platform(device="cpu", numerics=Numerics(), slots=2, cpus=1, gpus=0.0)
    study = {
        "name": "t", "kind": "error_bars", "datasets": ["cifar10"], "detectors": ["skip_ganomaly"], "seeds": 1,
        "abnormal": ["frog"], "variants": ["paper", "untrained"], "hyperparameters": {"all": {"epochs": 2}},
    }  # fmt: skip
    work = expand(load.resolve({"storage": "./r", "sweep": {"studies": [study]}}), where)
    rows = build_rows(work.fixed, {}, sweep="x", scores=lambda key: pytest.fail(key))
    assert {row["variant"]: row["reduced_budget"] for row in rows} == {"paper": "2 of 15 epochs", "untrained": None}
    (board,) = build(rows).boards
    assert board_captions(board) == [
        "Reduced budget: 2 of 15 epochs (skip_ganomaly paper).",
        "Not the paper's setting: protocol C1, where the paper has C0 (skip_ganomaly paper).",
        "Not the paper's setting: no early stopping, which the paper has, because nothing is held out for validation "
        "(skip_ganomaly paper).",
    ]
