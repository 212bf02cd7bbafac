"""Coverage of the board's intervals and error rate of its tests, by simulation with known truth.

    python -m tests.benchmarks.coverage --n 2000

Two lines of 4 classes with 50 test images each: seeds that all classes share, images that both lines share.  In half
of the runs both lines are equally good, in the other half one is better.  The last lines are about single cells: the
t-interval on the logit scale over seeds, for AUROCs with a beta distribution; and about seeds whose number the first
ones decide.  Standard errors of the percentages are about 0.5 for n = 2000.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sweep.leaderboard.headline import compare_lines
from sweep.leaderboard.stats import interval, logit_interval, stein_interval
from sweep.plan.more_seeds import seeds_needed, t_quantile
from sweep.spec.study_sections import MoreSeeds
from tests.benchmarks.measure import arguments, header
from tests.support.simulated_lines import Line, draw_pair

SPREADS = {"0.01": 0.05, "0.03": 0.2, "0.09": 0.6}  # spread of the class mean over seeds, and of the shift
BETTER, WORSE = 1.5, 1.2  # shifts


def main() -> None:
    options = arguments(__doc__, ("n", 2000, "simulated boards of each kind"))
    header()
    print("| seeds | against | spread over seeds | equal called different, % | coverage, % | mean width |")
    print("|---:|---:|---:|---:|---:|---:|")
    for seeds, others in [(3, 1), (5, 1), (10, 1), (3, 3), (5, 5), (10, 10), (3, 10), (1, 1)]:
        for name, spread in SPREADS.items() if seeds > 1 else {"none": 0.0}.items():
            first = Line(BETTER, seeds, spread)
            false = _simulate(first, _equal(first, others), options.n)[0]
            _, coverage, width = _simulate(first, Line(WORSE, others, spread), options.n)
            against = others if others > 1 else "no seeds"
            print(f"| {seeds} | {against} | {name} | {false:.1%} | {coverage:.1%} | {width:.3f} |", flush=True)
    print("\n| seeds | mean | spread | logit-t covers | t covers | t leaves [0, 1] |\n|---:|---:|---:|---:|---:|---:|")
    for mean, spread in [(0.7, 0.05), (0.7, 0.2), (0.9, 0.05), (0.95, 0.03)]:
        for seeds in (3, 5, 10):
            print(f"| {seeds} | {mean} | {spread} | {_cells(mean, spread, seeds, 5 * options.n)} |", flush=True)
    print(
        "\n| first seeds | spread | mean seeds | covers | fixed seeds for the same width |\n|---:|---:|---:|---:|---:|"
    )
    for count in (3, 5):
        for spread in (0.005, 0.01, 0.02, 0.05, 0.1):
            print(f"| {count} | {spread} | {_growing(spread, count, 5 * options.n)} |", flush=True)


def _equal(line: Line, seeds: int) -> Line:
    """Return a line with other seeds and the same expected class mean."""
    shift = line.shift * np.sqrt(2.0 / (2.0 + 1.25 * line.spread**2)) if seeds == 1 else line.shift
    return replace(line, seeds=seeds, shift=float(shift))


def _simulate(first: Line, second: Line, runs: int) -> tuple[float, float, float]:
    """Return the share called different, the coverage, and the mean width of the intervals."""
    rng, truth = np.random.default_rng(0), first.truth - second.truth
    leads = [compare_lines(*draw_pair(first, second, rng)) for _ in range(runs)]
    found = [lead for lead in leads if lead is not None]
    different = np.mean([lead.p <= 0.05 for lead in found])
    covered = np.mean([lead.low <= truth <= lead.high for lead in found])
    return float(different), float(covered), float(np.mean([lead.high - lead.low for lead in found]))


def _cells(mean: float, spread: float, seeds: int, runs: int) -> str:
    size = mean * (1.0 - mean) / spread**2 - 1.0
    draws = np.random.default_rng(0).beta(mean * size, (1.0 - mean) * size, (runs, seeds))
    logit = [logit_interval(values, 1e-4) for values in draws.tolist()]
    plain = [interval(values) for values in draws.tolist()]
    ends = [(m - (h or 0.0), m + (h or 0.0)) for m, _, h in plain]
    covers = [np.mean([low <= mean <= high for low, high in found]) for found in (logit, ends)]
    outside = np.mean([low < 0.0 or high > 1.0 for low, high in ends])
    return f"{covers[0]:.1%} | {covers[1]:.1%} | {outside:.1%}"


def _growing(spread: float, first: int, runs: int) -> str:
    """Let the first seeds decide for a half-width of 0.02, with at most 1,000 seeds."""
    rule, random, held, counts = MoreSeeds(width=0.02, most=1000), np.random.default_rng(0), 0, []
    for _ in range(runs):
        values = random.normal(0.5, spread, 1000).tolist()
        needed = seeds_needed(values[:first], rule)
        low, high = stein_interval(values[:needed], first)
        held += low <= 0.5 <= high
        counts.append(needed)
    fixed = next(n for n in range(2, 1000) if t_quantile(n - 1) * spread / np.sqrt(n) <= rule.width)
    return f"{np.mean(counts):.1f} | {held / runs:.1%} | {fixed}"


if __name__ == "__main__":
    main()
