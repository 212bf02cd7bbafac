"""Weights of pretrained networks: check that machines have those that a sweep names."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from models import catalog, pretrained
from sweep.errors import UserError
from sweep.providers.base import Provider
from sweep.providers.finding import Finding
from sweep.spec.study import settings
from sweep.spec.sweep import Sweep


def findings(provider: Provider[Any]) -> list[Finding]:
    """Check that trials find the weights that they need; [] if none of them needs any."""
    users: dict[str, list[str]] = {}
    for weights, user in _uses(provider.sweep):
        if user not in users.setdefault(weights, []):
            users[weights].append(user)
    return [_finding(weights, ", ".join(names), provider) for weights, names in users.items()]


def cautions(provider: Provider[Any]) -> list[Finding]:
    """Return the findings that a plan shows: weights that only trials can find out about."""
    return [found for found in findings(provider) if found.state == "unknown"]


def refuse(provider: Provider[Any]) -> None:
    """Refuse to plan or launch a sweep whose weights are missing, or are not what their name says.

    Raises:
        UserError: one line for each, with the fix.
    """
    missing = [f"{found.name}: {found.found}" for found in findings(provider) if found.state == "not ok"]
    if missing:
        raise UserError(missing)


def _uses(sweep: Sweep) -> Iterator[tuple[str, str]]:
    """Yield weights, and the detector and variant that a study wants them for."""
    for study in sweep.studies:
        for info in map(catalog.detector, study.detectors):
            if all(field.name != "weights" for field in info.fields) or catalog.is_own(info.name):
                continue
            for variant in study.variants_of(info):
                for value in (None, *study.axes.get("weights", ())):
                    given = {**study.given(info), **({} if value is None else {"weights": value})}
                    weights = str(settings(info, variant, given)[0]["weights"])
                    if weights:
                        yield weights, info.name if len(info.variants) == 1 else f"{info.name} {variant}"


def _finding(weights: str, users: str, provider: Provider[Any]) -> Finding:
    environment = provider.environment()
    if environment is not None and not environment.shared:
        if environment.made and weights == pretrained.BUILT_IN:
            return Finding(users, "ok", f"machines install the weights of {weights} with the code")
        if weights == pretrained.BUILT_IN:
            where = f"{environment.name} has the package {pretrained.PACKAGE}"
        else:
            where = f"the weights {weights} are on its machine under this path"
        return Finding(users, "unknown", f"only a trial can tell if {where}")
    try:
        found = pretrained.find(weights)
    except pretrained.MissingWeights as problem:
        return Finding(users, "not ok", str(problem))
    return Finding(users, "ok", f"ImageNet weights of {found.network}, {found.digest}")
