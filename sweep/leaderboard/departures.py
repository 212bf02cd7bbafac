"""Departures from the papers: settings of planned trials and of board lines that are silently not the papers' own.

A trial or line claims to be a paper's experiment if a paper printed values for its detector and dataset, and its
variant is trained (`sweep.leaderboard.papers.claims`).  Selection and evaluation are not compared here, because each
board shows them and `papers.differences` explains them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from models.catalog import DETECTORS
from sweep.leaderboard import papers
from sweep.leaderboard.board import Board
from sweep.plan.expand import Planned, Work

DRAWN_SPLITS = ("M1", "C1")  # the published scripts draw another split of these protocols for each seed
VARIED = frozenset({"epochs", "early_stopping", "max_test"})  # hyperparameters with a sentence of their own


@dataclass(frozen=True)
class Setting:
    """Settings that trials of one configuration share.

    Attributes:
        detector, variant, dataset, protocol: those of the trials.
        hyperparameters: those of one trial; lambda may be among them.
        chosen: True if a grid or a search sets hyperparameters, which are then no departure.
        fixed_split: True if several seeds share one split.  False also if that is unknown.
        precision: arithmetic of training; "" if unknown.
    """

    detector: str
    variant: str
    dataset: str
    protocol: str
    hyperparameters: Mapping[str, Any]
    chosen: bool = False
    fixed_split: bool = False
    precision: str = ""


def departures(setting: Setting) -> Iterator[str]:
    """Yield what differs from the paper's experiment, a phrase each; nothing if no paper has such an experiment."""
    info = DETECTORS.get(setting.detector)
    printed = papers.protocols_of(setting.detector, setting.dataset)
    if info is None or not printed or not papers.claims(info, setting.variant):
        return
    named = sorted(printed - {""})
    if named and setting.protocol not in named:
        yield f"protocol {setting.protocol}, where the paper has {' or '.join(named)}"
    if setting.fixed_split and setting.protocol.removesuffix("v") in DRAWN_SPLITS:
        yield "one split for all seeds, where the published scripts draw one for each seed: split_seed: follow"
    if setting.hyperparameters.get("early_stopping") and not setting.protocol.endswith("v"):
        yield "no early stopping, which the paper has, because nothing is held out for validation"
    if most := setting.hyperparameters.get("max_test"):
        yield f"at most {most:,} test images, where the paper has all (max_test: 0)"
    if setting.precision not in ("", "float32"):
        yield f"arithmetic {setting.precision}, where the papers have float32"
    if not setting.chosen and (changed := _changed(setting)):
        yield changed


def _changed(setting: Setting) -> str:
    """Return the hyperparameters that are not those of the variant, such as "width=16 instead of 64"."""
    info = DETECTORS[setting.detector]
    pairs = ((n, v, info.default(setting.variant, n)) for n, v in setting.hyperparameters.items() if n not in VARIED)
    return ", ".join(f"{n}={_text(v)} instead of {_text(u)}" for n, v, u in pairs if None not in (v, u) and v != u)


def _text(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def planned_lines(work: Work) -> list[str]:
    """Return lines for the reader of a plan: reduced budgets, and departures from the papers."""
    return _lines((planned.study, planned.variant, setting) for planned, setting in _settings(work))


def board_captions(board: Board) -> list[str]:
    """Return captions of a board.  Its lines know neither their splits nor their arithmetic."""
    return _lines(
        (
            "",
            f"{e.variant} {e.setting}".strip(),
            Setting(e.detector, e.variant, board.dataset, board.protocol, e.hyperparameters, chosen=bool(e.setting)),
        )
        for e in board.lines
    )


def _settings(work: Work) -> Iterator[tuple[Planned, Setting]]:
    """Yield the settings of each configuration of a plan, with its first trial."""
    groups: dict[tuple[object, ...], list[Planned]] = {}
    for trials in (work.fixed, *(search.reports for search in work.searches)):
        for p in trials:
            if p.kind != "runtime":
                groups.setdefault((p.study, p.detector, p.variant, p.setting, p.dataset, p.protocol), []).append(p)
    for (_, detector, variant, setting, dataset, protocol), group in groups.items():
        splits, seeds = ({getattr(p, name) for p in group} for name in ("split_seed", "seed"))
        first = group[0]
        yield first, Setting(
            str(detector), str(variant), str(dataset), str(protocol), first.spec.hyperparameters,
            chosen=bool(setting), fixed_split=len(splits) == 1 < len(seeds), precision=first.spec.numerics.precision,
        )  # fmt: skip


def _lines(settings: Iterable[tuple[str, str, Setting]]) -> list[str]:
    """Return one line for each reduced budget and departure, with the configurations that have it.

    Args:
        settings: study and variant as they are to be shown, and the settings.
    """
    having: dict[str, dict[str, dict[str, list[str]]]] = {}
    for study, variant, setting in settings:
        budget = papers.reduced_budget(setting.detector, setting.variant, setting.dataset, setting.hyperparameters)
        texts = [f"Reduced budget: {budget}"] if budget else []
        texts += [f"Not the paper's setting: {text}" for text in departures(setting)]
        for text in texts:
            variants = having.setdefault(text, {}).setdefault(study, {}).setdefault(setting.detector, [])
            if variant not in variants:
                variants.append(variant)
    return [f"{text} ({'; '.join(_label(*pair) for pair in found.items())})." for text, found in having.items()]


def _label(study: str, detectors: Mapping[str, list[str]]) -> str:
    """Return configurations as text, such as "table: ganomaly paper/repo_head, egbad repo"."""
    found = ", ".join(f"{detector} {'/'.join(variants)}" for detector, variants in detectors.items())
    return f"{study}: {found}" if study else found
