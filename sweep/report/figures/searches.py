"""Figures of searches, from the ledger's records: history, importance, parallel coordinates."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Iterator, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sweep.plan.expand import PlannedSearch
from sweep.plan.search import Candidate, Search
from sweep.report.figures.style import COLOURS, INK, WIDTH, Drawing, printable, save

FEWEST = 4  # complete candidates from which an importance is worth a bar
LAMBDA = "lambda"


def search(planned: PlannedSearch, found: Search) -> Iterator[Drawing]:
    """One figure for an Optuna study: how it went, what mattered, what was tried."""
    seen = [(number, candidate) for number, candidate in enumerate(found.candidates) if candidate.seen]
    if not seen:
        return
    figure = Figure(figsize=(WIDTH, 5.2), layout="constrained")
    grid = figure.add_gridspec(2, 2)
    _history(figure.add_subplot(grid[0, 0]), found, seen)
    measured = _importance(figure.add_subplot(grid[0, 1]), found, seen)
    _parallel(figure.add_subplot(grid[1, :]), found, seen)
    first = planned.tuning[0]
    classes = ", ".join(dict.fromkeys(p.abnormal for p in planned.reports))
    tuned = ", ".join(dict.fromkeys(p.abnormal for p in planned.tuning))
    complete = sum(candidate.complete(found.spec.instances) for _, candidate in seen)
    caption = (
        f"{len(found.candidates)} of {found.spec.candidates} candidates asked, {complete} completed.  Value: "
        f"validation AUROC, mean over {found.spec.instances} trainings (class {tuned}; tuning seeds) at the lambda "
        f"that suits the candidate best; a pruned one (x) has the mean of the trainings that it got.  "
    )
    caption += (
        "Importance: PED-ANOVA over complete candidates, of the trained hyperparameters; it says which mattered for "
        "being among the best tenth, and little with few candidates."
        if measured
        else f"Importance needs {FEWEST} complete candidates of different values."
    )
    title = f"search {first.study}: {first.detector} {first.variant} on {first.dataset}, reported on {classes}"
    name = f"{first.dataset}-{first.protocol}-search-{first.study}-{first.detector}-{first.variant}-{classes}"
    yield save(name, title, caption, figure)


def _history(axes: Axes, found: Search, seen: Sequence[tuple[int, Candidate]]) -> None:
    values = {number: found.value(number)[0] for number, _ in seen}
    whole = [number for number, candidate in seen if candidate.complete(found.spec.instances)]
    partial = [number for number in values if number not in whole]
    axes.plot(whole, [values[n] for n in whole], "o", color=COLOURS[0], label="complete")
    axes.plot(partial, [values[n] for n in partial], "x", color=COLOURS[1], label="pruned or failed")
    best = list(itertools.accumulate((values[n] for n in whole), max))
    axes.step(whole, best, where="post", color=INK, linewidth=1.0, linestyle=(0, (5, 1.5)), label="best so far")
    axes.set_title("history")
    axes.set_xlabel("candidate")
    axes.set_ylabel("validation AUROC")
    axes.legend(loc="best")


def _importance(axes: Axes, found: Search, seen: Sequence[tuple[int, Candidate]]) -> bool:
    """Bars, if there is enough to measure them by."""
    importance = importances(found, seen)
    axes.set_title("importance")
    if not importance:
        axes.set_axis_off()
        return False
    names = sorted(importance, key=lambda name: (importance[name], name))
    axes.barh([printable(name) for name in names], [importance[name] for name in names], color=COLOURS[0], height=0.6)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("share of the explained variance")
    return True


def importances(found: Search, seen: Sequence[tuple[int, Candidate]]) -> dict[str, float]:
    """Importance by trained hyperparameter, adding up to 1; none where too little is known."""
    complete = [number for number, candidate in seen if candidate.complete(found.spec.instances)]
    values = {number: found.value(number)[0] for number in complete}
    if len(complete) < FEWEST or len(set(values.values())) < 2 or not found.spec.space:
        return {}
    import optuna

    from sweep.plan.search import distribution

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    ranges = {name: distribution(given) for name, given in found.spec.space.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # the evaluator itself: 2026-11
        study = optuna.create_study(direction="maximize")
        for number in complete:
            params = {name: found.candidates[number].params[name] for name in ranges}
            study.add_trial(optuna.trial.create_trial(value=values[number], params=params, distributions=ranges))
        evaluator = optuna.importance.PedAnovaImportanceEvaluator()
        measured = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return {name: value for name, value in measured.items() if math.isfinite(value)}


def _parallel(axes: Axes, found: Search, seen: Sequence[tuple[int, Candidate]]) -> None:
    """Each candidate as a line over its hyperparameters, each on a scale of its own; the best in front."""
    from matplotlib import colormaps

    names = [*found.spec.space, *([LAMBDA] if found.spec.lambdas != (None,) else [])]
    rows = [
        [*(candidate.params[name] for name in found.spec.space), *([found.value(number)[1]] if LAMBDA in names else [])]
        for number, candidate in seen
    ]
    values = np.array([found.value(number)[0] for number, _ in seen])
    heights = np.array([_heights([row[at] for row in rows], _log(found, name)) for at, name in enumerate(names)]).T
    order = np.argsort(values, kind="stable")
    ranks = np.linspace(0.25, 0.95, len(values)) if len(values) > 1 else [0.95]
    for rank, at in zip(ranks, order, strict=True):
        best = at == order[-1]
        axes.plot(
            [*range(len(names)), len(names)],
            [*heights[at], _heights(list(values), log=False)[at]],
            color=COLOURS[1] if best else colormaps["Blues"](rank),
            linewidth=2.4 if best else 1.0,
            linestyle="-" if best else (0, (5, 1)),
            marker="o",
            markersize=3,
        )
    for at, (low, high) in enumerate([*_ends(names, rows), (f"{values.min():.3f}", f"{values.max():.3f}")]):
        axes.axvline(at, color=INK, linewidth=0.8)
        axes.text(at, 1.04, printable(high), ha="center", va="bottom", fontsize=8)
        axes.text(at, -0.05, printable(low), ha="center", va="top", fontsize=8)
    axes.set_xticks(range(len(names) + 1), [*map(printable, names), "value"])
    axes.tick_params(axis="x", length=0, pad=14)
    axes.set_yticks([])
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlim(-0.3, len(names) + 0.3)
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_title("parallel coordinates: darker is better, the best solid", pad=20)


def _log(found: Search, name: str) -> bool:
    return bool(found.spec.space.get(name, {}).get("log"))


def _heights(values: Sequence[object], log: bool) -> list[float]:
    """Positions in [0, 1]; names stand in alphabetical order."""
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        order = sorted({str(value) for value in values})
        return [order.index(str(value)) / max(1, len(order) - 1) for value in values]
    numbers = [math.log(float(v)) if log else float(v) for v in values]  # type: ignore[arg-type]
    low, high = min(numbers), max(numbers)
    return [(number - low) / (high - low) if high > low else 0.5 for number in numbers]


def _ends(names: Sequence[str], rows: Sequence[Sequence[object]]) -> Iterator[tuple[str, str]]:
    for at in range(len(names)):
        column = [row[at] for row in rows]
        if all(isinstance(value, int | float) and not isinstance(value, bool) for value in column):
            numbers = [float(value) for value in column]  # type: ignore[arg-type]
            yield f"{min(numbers):.3g}", f"{max(numbers):.3g}"
        else:
            texts = sorted({str(value) for value in column})
            yield texts[0], texts[-1]
