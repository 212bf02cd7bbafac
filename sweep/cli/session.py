"""One sweep opened for a command: its YAML, store, ledger, platform and plan."""

from __future__ import annotations

import shlex
import tempfile
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.text import Text

from sweep.launch import follow
from sweep.leaderboard.departures import planned_lines
from sweep.plan.expand import Work, expand, union
from sweep.plan.launch_record import commit_caution, last_launch, launches
from sweep.plan.platform import Platform
from sweep.plan.status import COUNTS, SweepStatus, read_status
from sweep.plan.study_costs import SeedCost, StudyCost, seed_costs, seeds_table, studies_table, study_costs
from sweep.plan.table import table
from sweep.providers import user_code, weights
from sweep.providers.registry import provider_of
from sweep.spec.load import load, refuse_unedited
from sweep.spec.sweep import Sweep
from sweep.store import launch_status, open_store
from sweep.store.base import Store, StoreError
from sweep.store.launch_status import LaunchStatus
from sweep.store.ledger import Ledger

if TYPE_CHECKING:
    from sweep.errors import Outcome
    from sweep.providers.base import Provider
    from sweep.report.report import Report

NAMING_KEYS = ("storage", "sweep.name")  # `--set` of these keys selects a sweep and changes nothing in it


class Session:
    """A sweep with its store and plan, and the command line that names it.

    Args:
        config: YAML file of the sweep.
        assignments: values of `--set`, each KEY=VALUE.
        as_launched: show the latest launch, on its own platform.  If `--set` changes other keys than `storage` and
            `sweep.name`, show the sweep of the command line instead, on that platform.
        everything: show the union of all launches, each on its own platform.
        to_launch: refuse a YAML that still has placeholders.
        to_run: refuse a sweep whose pretrained weights are not here.

    Attributes:
        launched: True if the store has a launch of this sweep; it is looked up only with `as_launched`.
    """

    def __init__(
        self,
        config: Path,
        assignments: list[str],
        *,
        as_launched: bool = False,
        everything: bool = False,
        to_launch: bool = False,
        to_run: bool = False,
    ) -> None:
        self._config, self._assignments = config, assignments
        self.sweep: Sweep = load(config, assignments)
        if to_launch:
            refuse_unedited(self.sweep)
        if to_run:
            weights.refuse(self.provider)
        self.store: Store = open_store(self.sweep.storage, self.sweep.budget.outage_seconds)
        self.ledger: Ledger = Ledger(self.store, self.sweep.name)
        storage = self.sweep.storage
        last = last_launch(self.ledger, storage) if as_launched else None
        self.launched = last is not None
        if last is not None and all(name.partition("=")[0].strip() in NAMING_KEYS for name in assignments):
            self.sweep = last[0]
        self.platform: Platform = last[1] if last is not None else self.provider.platform()
        self.work: Work = expand(self.sweep, self.platform)
        if everything:
            earlier = [expand(sweep, platform) for sweep, platform in launches(self.ledger, storage)]
            self.work = union([*earlier, self.work])

    @cached_property
    def provider(self) -> Provider[Any]:
        """The provider of the sweep's machines."""
        return provider_of(self.sweep)

    @property
    def runs_here(self) -> bool:
        """True if a launch runs in the process of its command."""
        return self.sweep.cluster.runs_here

    @property
    def usd_per_hour(self) -> float | None:
        """Price of the resources of one trial, in dollars per hour; None if unknown."""
        price = self.sweep.usd_per_hour
        return None if price is None else price / max(1, self.platform.slots)

    def command(self, verb: str, rest: str = "") -> str:
        """Return the command line of another command on the same sweep."""
        over = [word for assignment in self._assignments for word in ("--set", assignment)]
        words = shlex.join(["python", "-m", "sweep", verb, str(self._config), *over])
        return f"{words} {rest}".strip()

    def never_launched(self) -> str:
        """Return a notice that this sweep was never launched; "" if it was."""
        if self.launched:
            return ""
        others = ", ".join(sorted(self.store.names("sweeps"))) or "none"
        return f"{self.sweep.name} was never launched into {self.store.url} (there: {others}); the plan is shown"

    def read_status(self) -> SweepStatus:
        """Compare the plan with the store.

        Raises:
            StoreError: the store does not answer.
        """
        return read_status(self.work, self.ledger)

    def read_status_if_reached(self) -> tuple[SweepStatus, str]:
        """Return the status of the sweep, and "".

        If the store does not answer, return the status for an empty store, and the reason.
        """
        try:
            return self.read_status(), ""
        except StoreError as error:
            with tempfile.TemporaryDirectory() as nothing:
                return read_status(self.work, Ledger(open_store(nothing), self.sweep.name)), str(error)

    def head(self) -> LaunchStatus | None:
        """Return the launch status that the head wrote last; None without a head, as on this machine."""
        return None if self.runs_here else launch_status.read(self.store, self.sweep.name)

    def status_table(self, status: SweepStatus, head: LaunchStatus | None) -> Group:
        """Return what `status` prints."""
        shown = table(self.sweep, replace(self.platform, slots=self._slots_now(head)), status)
        lines = [] if head is None else follow.status_lines(head, self.sweep.budget)
        return Group(shown, *(Text(line) for line in lines))

    def status_json(self, status: SweepStatus, head: LaunchStatus | None) -> dict[str, Any]:
        """Return what `status --json` prints; `seconds` is None if trials are left but no machine exists."""
        slots = self._slots_now(head)
        found = status.to_json(slots)
        return {
            **found,
            "seconds": found["seconds"] if slots or not found["to_run"] else None,
            "failures": status.failures(),
            "head": None if head is None else head.to_json(),
            "budget": self.sweep.budget.model_dump(mode="json"),
        }

    def _slots_now(self, head: LaunchStatus | None) -> int:
        """Return the number of trials that the machines that exist now run at once."""
        if self.runs_here:
            return self.platform.slots
        return 0 if head is None or head.has_ended else head.slots

    def plan_table(self, status: SweepStatus, unreached: str = "") -> Group:
        """Return what `plan` prints.

        Args:
            status, unreached: as `read_status_if_reached` returns them.
        """
        machines = self.provider.plan_lines(status, self.store, unreached)
        of_studies, of_seeds = self._costs(status)
        slots = self.platform.slots
        costs = [studies_table(of_studies, slots), *([seeds_table(of_seeds, slots)] if of_seeds else [])]
        shown = table(self.sweep, self.platform, status, unreached, machines, costs)
        return Group(shown, *(Text(line, style="yellow") for line in (*planned_lines(self.work), *self._cautions())))

    def plan_json(self, status: SweepStatus, unreached: str) -> dict[str, Any]:
        """Return what `plan --json` prints.

        Args:
            status, unreached: as `read_status_if_reached` returns them.
        """
        of_studies, of_seeds = self._costs(status)
        found = {
            **status.to_json(self.platform.slots),
            "studies": [asdict(cost) for cost in of_studies],
            "seeds": [asdict(cost) for cost in of_seeds],
            "departures": planned_lines(self.work),
            "cautions": self._cautions(),
        }
        if unreached:
            found |= {**{name: None for name in COUNTS if name not in ("trials", "to_run")}, "store": unreached}
        return {**found, **self.provider.plan_json(status)}

    def _costs(self, status: SweepStatus) -> tuple[list[StudyCost], list[SeedCost]]:
        """Return what each study costs, and what other numbers of seeds would cost."""
        arguments = (self.sweep, status, self.platform.slots, self.provider.dollars(status, self.platform))
        return study_costs(*arguments), seed_costs(*arguments)

    def _cautions(self) -> list[str]:
        """Return warnings that a reader of the plan needs."""
        own = [line.sentence() for line in (*user_code.cautions(self.provider), *weights.cautions(self.provider))]
        cautions = (*self.sweep.notes, self.platform.caution, self.provider.budget_caution(), commit_caution(), *own)
        return [text for text in cautions if text]

    def launch(
        self, status: SweepStatus, console: Console, *, skip_failed: bool, detach: bool
    ) -> tuple[Outcome, SweepStatus | None]:
        """Run the trials that are left: in this process, or on the provider's machines.

        Returns:
            The outcome, and the sweep's status after the launch; None if it was not read here.
        """
        from sweep.errors import Outcome
        from sweep.launch.local import LocalLaunch
        from sweep.launch.remote import RemoteLaunch

        user_code.refuse(self.provider)
        self.provider.check_launch()
        sweep = self.provider.pin()
        prepared = (sweep, self.work, self.platform, self.store, self.ledger, console)
        if self.runs_here:
            end = LocalLaunch(*prepared, lambda key: self.command("trial", f"{key} --log"), skip_failed).run()
            return Outcome(end.code), end.status
        remote = RemoteLaunch(*prepared, provider_of(sweep), status, self.command, skip_failed)
        return remote.run(detach=detach), None

    def reporting(
        self,
        selection: str = "last",
        evaluation: str = "clean",
        metric: str = "auroc",
        status: SweepStatus | None = None,
    ) -> Report:
        """Return the report of what the store holds now, or of a status that was read just before."""
        from sweep.report.report import Report

        return Report(status or self.read_status(), self.ledger, selection, evaluation, metric, self.usd_per_hour)
