"""Number of seeds that a line needs, decided by its first ones (Stein 1945).

The decision is a pure function of the results of the first seeds, so a launch that goes on, a plan and a report all
come to the same one.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from statistics import fmean, stdev

from sweep.plan.expand import Growing, Planned, Work
from sweep.spec.study_sections import MoreSeeds
from sweep.store.ledger import Damaged, Ledger, Record

LEVEL = 0.95
DECIDED = 0.001  # p of a first look that leaves the level of the tests at the end as it is (Haybittle 1971, Peto 1976)
CHANCE = 0.5  # AUROC of a trial that diverged

Means = Mapping[int, float]  # class mean by seed


def seeds_needed(first: Sequence[float], rule: MoreSeeds) -> int:
    """Return the number of seeds for the half-width that is asked for, at most `rule.most`.

    Args:
        first: class mean of each first seed, two or more.
        rule: half-width and most seeds.
    """
    return max(len(first), min(rule.most, math.ceil((t_quantile(len(first) - 1) * stdev(first) / rule.width) ** 2)))


def t_quantile(degrees: int) -> float:
    """Return the two-sided 95 % quantile of Student's t."""
    from scipy.special import stdtrit

    return float(stdtrit(degrees, 0.5 + LEVEL / 2.0))


def grow(work: Work, ledger: Ledger, finished: Collection[str]) -> Work:
    """Return the work with the further trials of every line whose first seeds have results.

    Args:
        work: plan with the first seeds.
        ledger: has the results.
        finished: keys with a result.
    """
    if not work.growing:
        return work
    ready = [line for line in work.growing if all(planned.key in finished for planned in line.first)]
    rivals = _rivals(work, ready, finished)
    damaged: dict[str, Damaged] = {}
    needed = {p.key for line in ready for p in line.first} | {p.key for of in rivals.values() for p in of}
    results = ledger.results(needed, damaged)
    further = [planned for line in ready for planned in _further(line, rivals, results, damaged)]
    return replace(work, fixed=(*work.fixed, *further))


def may_come(work: Work, finished: Collection[str]) -> int:
    """Return the number of trials that may still be added, of lines whose first seeds have no results yet."""
    open_ = (line for line in work.growing if not all(planned.key in finished for planned in line.first))
    return sum(len(line.further) for line in open_)


def _group(planned: Planned) -> tuple[str, str, str]:
    return planned.study, planned.dataset, planned.protocol


def _rivals(work: Work, ready: Iterable[Growing], finished: Collection[str]) -> dict[tuple[str, ...], list[Planned]]:
    """Return all lines beside those that stop when they are decided, by name; none of a group that is not finished."""
    wanted = {_group(line.first[0]) for line in ready if line.rule.until == "decided"}
    lines: dict[tuple[str, ...], list[Planned]] = {}
    for planned in work.fixed:
        if _group(planned) in wanted and planned.kind == "error_bars":
            lines.setdefault(planned.cell[:-1], []).append(planned)
    waiting = {_group(of[0]) for of in lines.values() if any(planned.key not in finished for planned in of)}
    return {name: of for name, of in lines.items() if _group(of[0]) not in waiting}


def _further(
    line: Growing,
    rivals: Mapping[tuple[str, ...], Sequence[Planned]],
    results: Mapping[str, Record],
    damaged: Collection[str],
) -> Sequence[Planned]:
    if any(planned.key in damaged for planned in line.first):
        return ()
    means = _class_means(line.first, results)
    if line.rule.until == "decided":
        group = {
            name: _class_means(of, results)
            for name, of in rivals.items()
            if _group(of[0]) == _group(line.first[0]) and not any(planned.key in damaged for planned in of)
        }
        if line.name not in group or _is_decided(line.name, group):
            return ()
    needed = seeds_needed(list(means.values()), line.rule)
    return [planned for planned in line.further if planned.seed < needed]


def _class_means(trials: Iterable[Planned], results: Mapping[str, Record]) -> Means:
    """Return the class mean by seed at the last epoch and the clean evaluation; a diverged trial counts as chance."""
    by_seed: dict[int, list[float]] = {}
    for planned in trials:
        by_seed.setdefault(planned.seed, []).append(_auroc(results[planned.key]))
    return {seed: fmean(of_seed) for seed, of_seed in by_seed.items()}


def _auroc(result: Record) -> float:
    if result["status"] != "ok":
        return CHANCE
    entries = {(entry["selection"], entry["evaluation"]): entry for entry in result["metrics"]}
    return float(entries["last", "clean"]["auroc"])


def _is_decided(name: tuple[str, ...], group: Mapping[tuple[str, ...], Means]) -> bool:
    """Return True if the first seeds tell a line from the leader, or the leader from every other line."""
    leader = max(group, key=lambda other: fmean(group[other].values()))
    rivals = [other for other in group if other != leader] if name == leader else [name]
    return all(_p_value(list(group[leader].values()), list(group[other].values())) <= DECIDED for other in rivals)


def _p_value(first: Sequence[float], second: Sequence[float]) -> float:
    """Return Welch's two-sided p-value; a side with one value counts as exact."""
    from scipy.special import stdtr

    sides = [(stdev(values) ** 2 / len(values), len(values) - 1) for values in (first, second) if len(values) > 1]
    variance = sum(part for part, _ in sides)
    difference = abs(fmean(first) - fmean(second))
    if variance == 0.0:
        return 1.0 if difference == 0.0 else 0.0
    degrees = 1.0 / sum((part / variance) ** 2 / count for part, count in sides)
    return 2.0 * float(stdtr(degrees, -difference / math.sqrt(variance)))
