"""Searches: get a candidate from Optuna, run it on all instances, and prune or complete it.

A candidate is a set of hyperparameters.  Its value is the mean validation AUROC over its instances (abnormal class x
tuning seed), with the best lambda for it.  Lambda weighs two score components that every trial stores, so choosing it
needs no training.

A search depends only on the values of its instances, not on the order in which trials finish, nor on crashes:

- Candidate n is requested when all candidates up to n - parallel are settled.  Optuna then knows the values of those
  candidates, and counts the others as running.
- An instance counts only after all earlier instances of its candidate have finished.

So a search that is repeated makes the same requests and prunes as those in the ledger.  This module uses neither Ray
nor torch.
"""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sweep.spec.trial import Scalar
from sweep.store.ledger import damage

if TYPE_CHECKING:
    import optuna

Ask = Callable[[int, dict[str, Any]], dict[str, Any]]  # (candidate, record) -> the record that is stored
Values = Mapping[float | None, float]  # validation AUROC by lambda; {None: AUROC} without a lambda

P_THRESHOLD = 0.1  # of WilcoxonPruner; a candidate that is worse on all of its first 4 instances is below it
PATIENCE = 4  # candidates before TPE starts to model: the default, then random ones


@dataclass(frozen=True)
class SearchSpec:
    """Specification of a search.

    Attributes:
        id: name of the search in the ledger; it depends on everything that its values depend on.
        space: for each hyperparameter {"low", "high", "log", "type"} or {"choices"}; without lambda.
        default: values of these hyperparameters for the first candidate, if the space holds them.
        candidates: number of candidates.
        parallel: number of candidates that run at the same time.
        instances: number of trials of a complete candidate.
        lambdas: values that lambda is chosen from; (None,) if the score has one component.
    """

    id: str
    space: Mapping[str, Mapping[str, Any]]
    default: Mapping[str, Scalar]
    candidates: int
    parallel: int
    instances: int
    lambdas: tuple[float | None, ...]


@dataclass
class Candidate:
    """One set of hyperparameters, and the values of its instances so far."""

    params: dict[str, Scalar]
    values: dict[int, Values] = field(default_factory=dict)
    failed: set[int] = field(default_factory=set)
    started: set[int] = field(default_factory=set)
    pruned: int | None = None  # number of instances that were compared when it was pruned
    compared: int = 0  # number of leading instances that were compared with the best candidate

    @property
    def seen(self) -> list[Values]:
        """Values of the leading instances, up to the first one without a value."""
        leading: list[Values] = []
        while len(leading) in self.values:
            leading.append(self.values[len(leading)])
        return leading

    def is_settled(self, instances: int) -> bool:
        """Return True if no result that is still missing can change what is known of the candidate."""
        seen = len(self.seen)
        return self.pruned is not None or seen in self.failed or seen == instances

    def complete(self, instances: int) -> bool:
        return self.pruned is None and len(self.seen) == instances


class Search:
    """One Optuna study as a queue of (candidate, instance) pairs.

    Args:
        spec: specification of the search.
        asks: recorded candidates by number, each {"params": {...}}.
        prunes: recorded prune decisions by candidate, each {"step": n}.
        record_ask, record_prune: publish a record, and return the record that is stored (another process may have been
            first).  Without them no candidate is requested or pruned; readers leave them out.
    """

    def __init__(
        self,
        spec: SearchSpec,
        asks: Mapping[int, Mapping[str, Any]],
        prunes: Mapping[int, Mapping[str, Any]],
        record_ask: Ask | None = None,
        record_prune: Ask | None = None,
    ) -> None:
        self.spec = spec
        self._record_ask, self._record_prune = record_ask, record_prune
        self.candidates = [Candidate(dict(asks[n]["params"])) for n in range(_contiguous(asks))]
        for number, prune in prunes.items():
            if number < len(self.candidates):
                self.candidates[number].pruned = int(prune["step"])

    # -- what to run ----------------------------------------------------------------------------

    def next(self) -> tuple[int, int] | None:
        """Return a (candidate, instance) pair to run now; None if others must finish first."""
        for number, candidate in enumerate(self.candidates):
            if not candidate.is_settled(self.spec.instances):
                for instance in range(self.spec.instances):
                    if instance not in candidate.started:
                        candidate.started.add(instance)
                        return number, instance
        may_ask = self._record_ask is not None and len(self.candidates) < self.spec.candidates
        if may_ask and self._settled_up_to(self._horizon()):
            self.candidates.append(self._ask())
            return self.next()
        return None

    def observe(self, number: int, instance: int, values: Values | None) -> None:
        """Take the values of an instance; None if its trial failed for good or diverged."""
        candidate = self.candidates[number]
        candidate.started.add(instance)
        if values is None:
            candidate.failed.add(instance)
        else:
            candidate.values[instance] = values
        self._prune_if_hopeless(number)

    def requeue(self, number: int, instance: int) -> None:
        """Note that an instance ended without a result, so that it runs again."""
        self.candidates[number].started.discard(instance)

    @property
    def finished(self) -> bool:
        """True if every candidate was requested and is settled."""
        return len(self.candidates) >= self.spec.candidates and self._settled_up_to(len(self.candidates))

    # -- what was found -------------------------------------------------------------------------

    def value(self, number: int) -> tuple[float, float | None]:
        """Return the mean of a candidate over its seen instances, at its best lambda, and that lambda."""
        return best_lambda(self.candidates[number].seen, self.spec.lambdas)

    def best(self, among: int | None = None) -> int | None:
        """Return the complete candidate with the highest value, the earliest of equals; None if there is none.

        Args:
            among: consider only this number of leading candidates; None for all.
        """
        complete = [n for n, c in enumerate(self.candidates[:among]) if c.complete(self.spec.instances)]
        return max(complete, key=lambda n: (self.value(n)[0], -n), default=None)

    def frozen(self) -> tuple[dict[str, Scalar], float | None] | None:
        """Return the hyperparameters and lambda that the search chose; None if no candidate was completed."""
        assert self.finished, "a search has chosen only when it is finished"
        best = self.best()
        return None if best is None else (dict(self.candidates[best].params), self.value(best)[1])

    # -- Optuna ---------------------------------------------------------------------------------

    def _horizon(self) -> int:
        """Return the number of leading candidates that the next one learns from; all of them must be settled."""
        return max(0, len(self.candidates) - self.spec.parallel + 1)

    def _settled_up_to(self, count: int) -> bool:
        return all(c.is_settled(self.spec.instances) for c in self.candidates[:count])

    def _ask(self) -> Candidate:
        number = len(self.candidates)
        default = number == 0 and self._holds_default()
        params = dict(self.spec.default) if default else self._sample(number)
        record: dict[str, Any] = {
            "params": params,
            "sampler": f"TPE(seed=crc32(id:{number}), startup={PATIENCE})",
        }
        assert self._record_ask is not None, "a candidate is requested only if it can be recorded"
        return Candidate(dict(self._record_ask(number, record)["params"]))

    def _holds_default(self) -> bool:
        """Return True if the default is inside the space; otherwise the first candidate is random, too."""
        return all(holds(given, self.spec.default[name]) for name, given in self.spec.space.items())

    def _sample(self, number: int) -> dict[str, Scalar]:
        optuna = _quiet_optuna()
        seed = zlib.crc32(f"{self.spec.id}:{number}".encode())
        distributions = {name: distribution(r) for name, r in sorted(self.spec.space.items())}
        with warnings.catch_warnings():
            # Multivariate and constant_liar are experimental as of 2026-11.
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler = optuna.samplers.TPESampler(
                seed=seed, multivariate=True, constant_liar=True, n_startup_trials=PATIENCE
            )
            study = optuna.create_study(direction="maximize", sampler=sampler)
            horizon = self._horizon()
            for n, candidate in enumerate(self.candidates):
                study.add_trial(self._optuna_trial(n, candidate, distributions, known=n < horizon))
            return dict(study.ask(distributions).params)

    def _optuna_trial(
        self, number: int, candidate: Candidate, distributions: Mapping[str, Any], *, known: bool
    ) -> optuna.trial.FrozenTrial:
        """Return a candidate as an Optuna trial; one that failed counts as pruned, which TPE ranks last."""
        import optuna

        state = optuna.trial.TrialState
        params = {k: v for k, v in candidate.params.items() if k in distributions}
        kept = {k: d for k, d in distributions.items() if k in params}
        if not known:
            return optuna.trial.create_trial(state=state.RUNNING, params=params, distributions=kept)
        if candidate.complete(self.spec.instances):
            return optuna.trial.create_trial(value=self.value(number)[0], params=params, distributions=kept)
        looked_at = candidate.seen[: candidate.pruned or 0]
        steps = {len(looked_at): best_lambda(looked_at, self.spec.lambdas)[0]} if looked_at else {}
        return optuna.trial.create_trial(
            state=state.PRUNED, params=params, distributions=kept, intermediate_values=steps
        )

    def _prune_if_hopeless(self, number: int) -> None:
        """Prune a candidate that is worse than the best one, instance by instance (Wilcoxon test)."""
        candidate = self.candidates[number]
        best = self.best(among=max(0, number - self.spec.parallel + 1))
        if best is None or candidate.pruned is not None or self._record_prune is None:
            return
        reference = at_lambda(self.candidates[best].seen, self.value(best)[1])
        seen = candidate.seen
        # Compare step by step, so that the order in which values arrive does not matter.
        for step in range(candidate.compared + 1, len(seen) + 1):
            candidate.compared = step
            _, lam = best_lambda(seen[:step], self.spec.lambdas)
            if _worse(at_lambda(seen[:step], lam), reference):
                candidate.pruned = step
                self._record_prune(number, {"step": step, "best": best})
                return


def at_lambda(seen: Sequence[Values], lam: float | None) -> list[float]:
    """Return the value of each instance at one lambda."""
    return [values[lam] for values in seen]


def best_lambda(seen: Sequence[Values], lambdas: Sequence[float | None]) -> tuple[float, float | None]:
    """Return the highest mean over the instances, and the lambda that gives it; of equal means the first."""
    means = [(sum(at_lambda(seen, lam)) / len(seen), lam) for lam in lambdas]
    return max(means, key=lambda pair: pair[0])


def _worse(values: Sequence[float], reference: Sequence[float]) -> bool:
    """Return True if Optuna's WilcoxonPruner would prune; both sequences have the values of the same instances."""
    optuna = _quiet_optuna()
    with warnings.catch_warnings():
        # The pruner is experimental as of 2026-11.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        pruner = optuna.pruners.WilcoxonPruner(p_threshold=P_THRESHOLD)
    study = optuna.create_study(direction="maximize", pruner=pruner)
    mean = sum(reference) / len(reference)
    study.add_trial(optuna.trial.create_trial(value=mean, intermediate_values=dict(enumerate(reference))))
    running = optuna.trial.create_trial(
        state=optuna.trial.TrialState.RUNNING, intermediate_values=dict(enumerate(values))
    )
    return bool(pruner.prune(study, running))


def _quiet_optuna() -> Any:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)  # otherwise it prints a line for every study
    return optuna


def holds(given: Mapping[str, Any], value: Scalar) -> bool:
    """Return True if a range {"low", "high"} or {"choices"} contains a value."""
    if "choices" in given:
        return value in given["choices"]
    return isinstance(value, int | float) and given["low"] <= value <= given["high"]


def distribution(given: Mapping[str, Any]) -> Any:
    """Return a range of `SearchSpec.space` as a distribution of Optuna."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if "choices" in given:
        return CategoricalDistribution(list(given["choices"]))
    if given.get("type") == "int":
        return IntDistribution(int(given["low"]), int(given["high"]), log=bool(given.get("log")))
    return FloatDistribution(float(given["low"]), float(given["high"]), log=bool(given.get("log")))


def _contiguous(asks: Mapping[int, Any]) -> int:
    """Return the number of candidates 0, 1, 2, ... without a gap; asks are recorded in order, so no gap is expected."""
    count = 0
    while count in asks:
        count += 1
    return count


def values_of(result: Mapping[str, Any] | None, lambdas: Sequence[float | None] = ()) -> Values | None:
    """Return the validation AUROC by lambda; None for a trial that failed or diverged.

    Raises:
        Damaged: the result has no AUROC at one of `lambdas`, which the search compares.
    """
    if result is None or result["status"] != "ok" or result["validation"] is None:
        return None
    values = dict(zip(result["validation"]["lambda"], result["validation"]["auroc"], strict=True))
    if not set(lambdas) <= values.keys():
        raise damage(f"trials/{result['key']}/result.json", "it has no validation AUROC at some lambda of its search")
    return values
