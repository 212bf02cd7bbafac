"""Figures of searches, drawn from the ledger's records: history, importance, parallel coordinates."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Iterator, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sweep.console import printable
from sweep.plan.expand import PlannedSearch
from sweep.plan.search import Candidate, Search
from sweep.report.figures.style import COLOURS, INK, WIDTH, Drawing, save

FEWEST = 4  # minimum number of complete candidates for importances
LAMBDA = "lambda"


def search(planned: PlannedSearch, state: Search) -> Iterator[Drawing]:
    """Draw one figure for an Optuna study: its history, the importance of hyperparameters, and all candidates."""
    seen = [(number, candidate) for number, candidate in enumerate(state.candidates) if candidate.seen]
    if not seen:
        return
    figure = Figure(figsize=(WIDTH, 5.2), layout="constrained")
    grid = figure.add_gridspec(2, 2)
    _history(figure.add_subplot(grid[0, 0]), state, seen)
    has_importance = _importance(figure.add_subplot(grid[0, 1]), state, seen)
    _parallel(figure.add_subplot(grid[1, :]), state, seen)
    first = planned.tuning[0]
    classes = ", ".join(dict.fromkeys(p.abnormal for p in planned.reports))
    tuned = ", ".join(dict.fromkeys(p.abnormal for p in planned.tuning))
    complete = sum(candidate.complete(state.spec.instances) for _, candidate in seen)
    caption = (
        f"{len(state.candidates)} of {state.spec.candidates} candidates asked, {complete} completed.  Value: "
        f"validation AUROC, mean over {state.spec.instances} trainings (class {tuned}; tuning seeds) at the "
        f"candidate's best lambda.  An incomplete candidate (x) has the mean over its finished trainings.  "
    )
    caption += (
        "Importance: PED-ANOVA over complete candidates, for the hyperparameters of training.  It shows which ones "
        "decide whether a candidate is among the best tenth, and is unreliable with few candidates."
        if has_importance
        else f"Importance needs at least {FEWEST} complete candidates with different values."
    )
    title = f"search {first.study}: {first.detector} {first.variant} on {first.dataset}, reported on {classes}"
    name = f"{first.dataset}-{first.protocol}-search-{first.study}-{first.detector}-{first.variant}-{classes}"
    yield save(name, title, caption, figure)


def _history(axes: Axes, state: Search, seen: Sequence[tuple[int, Candidate]]) -> None:
    values = {number: state.value(number)[0] for number, _ in seen}
    whole = [number for number, candidate in seen if candidate.complete(state.spec.instances)]
    partial = [number for number in values if number not in whole]
    axes.plot(whole, [values[n] for n in whole], "o", color=COLOURS[0], label="complete")
    axes.plot(partial, [values[n] for n in partial], "x", color=COLOURS[1], label="pruned or failed")
    best = list(itertools.accumulate((values[n] for n in whole), max))
    axes.step(whole, best, where="post", color=INK, linewidth=1.0, linestyle=(0, (5, 1.5)), label="best so far")
    axes.set_title("history")
    axes.set_xlabel("candidate")
    axes.set_ylabel("validation AUROC")
    axes.legend(loc="best")


def _importance(axes: Axes, state: Search, seen: Sequence[tuple[int, Candidate]]) -> bool:
    """Draw importances as bars; return False if there are too few candidates to measure them."""
    importance = importances(state, seen)
    axes.set_title("importance")
    if not importance:
        axes.set_axis_off()
        return False
    names = sorted(importance, key=lambda name: (importance[name], name))
    axes.barh([printable(name) for name in names], [importance[name] for name in names], color=COLOURS[0], height=0.6)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("share of the explained variance")
    return True


def importances(state: Search, seen: Sequence[tuple[int, Candidate]]) -> dict[str, float]:
    """Return the PED-ANOVA importance of each hyperparameter of training.

    Args:
        state: the search.
        seen: (number, candidate) of the candidates with a value.

    Returns:
        Importances that sum to 1; empty with fewer than `FEWEST` complete candidates, or if all have one value.
    """
    complete = [number for number, candidate in seen if candidate.complete(state.spec.instances)]
    values = {number: state.value(number)[0] for number in complete}
    if len(complete) < FEWEST or len(set(values.values())) < 2 or not state.spec.space:
        return {}
    import optuna

    from sweep.plan.search import distribution

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    ranges = {name: distribution(given) for name, given in state.spec.space.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # the evaluator causes it, 2026-11
        study = optuna.create_study(direction="maximize")
        for number in complete:
            params = {name: state.candidates[number].params[name] for name in ranges}
            study.add_trial(optuna.trial.create_trial(value=values[number], params=params, distributions=ranges))
        evaluator = optuna.importance.PedAnovaImportanceEvaluator()
        importance = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return {name: value for name, value in importance.items() if math.isfinite(value)}


def _parallel(axes: Axes, state: Search, seen: Sequence[tuple[int, Candidate]]) -> None:
    """Draw each candidate as a line over its hyperparameters, each with its own scale; the best is in front."""
    from matplotlib import colormaps

    names = [*state.spec.space, *([LAMBDA] if state.spec.lambdas != (None,) else [])]
    rows = [
        [*(candidate.params[name] for name in state.spec.space), *([state.value(number)[1]] if LAMBDA in names else [])]
        for number, candidate in seen
    ]
    values = np.array([state.value(number)[0] for number, _ in seen])
    heights = np.array([_heights([row[at] for row in rows], _log(state, name)) for at, name in enumerate(names)]).T
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
    axes.set_title("parallel coordinates: darker is better, the best is solid", pad=20)


def _log(state: Search, name: str) -> bool:
    return bool(state.spec.space.get(name, {}).get("log"))


def _heights(values: Sequence[object], log: bool) -> list[float]:
    """Map values to positions in [0, 1]: numbers linearly or by logarithm, names in alphabetical order."""
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
