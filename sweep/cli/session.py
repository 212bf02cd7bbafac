"""A sweep as a verb sees it: its YAML with its store, ledger and plan, and what is said of it."""

from __future__ import annotations

import shlex
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.text import Text

from sweep.errors import UserError
from sweep.launch import follow
from sweep.plan.expand import Work, expand, union
from sweep.plan.launch_record import last_launch, launches
from sweep.plan.platform import Platform
from sweep.plan.status import SweepStatus, read_status
from sweep.plan.table import table, unheld_budget
from sweep.providers import user_code
from sweep.providers.local import refuse_busy_cards
from sweep.providers.registry import platform
from sweep.spec.cluster import Aws, Local, OnPrem, Slurm
from sweep.spec.load import load, refuse_unedited
from sweep.spec.sweep import Sweep
from sweep.store import launch_status, open_store
from sweep.store.base import Store, StoreError
from sweep.store.ledger import Ledger

if TYPE_CHECKING:
    from sweep.errors import Outcome
    from sweep.report.report import Reporting


WHICH = ("storage", "sweep.name")  # keys that say which sweep, and nothing of what it is


class Session:
    """A sweep with its store, its plan and the command line that names it.

    Those who look back (`as_launched`) see what was launched last, on the machine that it ran on;
    with `--set` of more than `storage` and `sweep.name` they see what the command line says, on that
    machine, and with `--all` (`everything`) the union of all launches, each on its machine.  Those who
    launch (`to_launch`) have to have edited the YAML.

    Attributes:
        launched: whether the store has any launch of it; looked for by those who look back.
    """

    def __init__(
        self,
        config: Path,
        assignments: list[str],
        *,
        as_launched: bool = False,
        everything: bool = False,
        to_launch: bool = False,
    ) -> None:
        self._config, self._assignments = config, assignments
        self.sweep: Sweep = load(config, assignments)
        if to_launch:
            refuse_unedited(self.sweep)
        self.store: Store = open_store(self.sweep.storage)
        self.ledger: Ledger = Ledger(self.store, self.sweep.name)
        storage = self.sweep.storage
        last = last_launch(self.ledger, storage) if as_launched else None
        self.launched = last is not None
        if last is not None and all(name.partition("=")[0].strip() in WHICH for name in assignments):
            self.sweep = last[0]
        self.platform: Platform = last[1] if last is not None else platform(self.sweep)
        self.work: Work = expand(self.sweep, self.platform)
        if everything:
            earlier = [expand(sweep, ran_on) for sweep, ran_on in launches(self.ledger, storage)]
            self.work = union([*earlier, self.work])

    def read_status(self) -> SweepStatus:
        """The plan beside what the store holds."""
        return read_status(self.work, self.ledger)

    def read_status_if_reached(self) -> tuple[SweepStatus, str]:
        """As `survey`; where the store cannot be reached, the plan beside an empty one, and why."""
        try:
            return self.read_status(), ""
        except StoreError as error:
            with tempfile.TemporaryDirectory() as nothing:
                return read_status(self.work, Ledger(open_store(nothing), self.sweep.name)), str(error)

    @property
    def on_this_machine(self) -> bool:
        """Whether a launch runs in its own process."""
        return isinstance(self.sweep.cluster, Local)

    @property
    def usd_per_hour(self) -> float | None:
        """Price of what one trial occupies, where it is known."""
        price = self.sweep.usd_per_hour
        return None if price is None else price / max(1, self.platform.slots)

    def command(self, verb: str, rest: str = "") -> str:
        """The command line of a verb on the same sweep."""
        over = [word for assignment in self._assignments for word in ("--set", assignment)]
        words = shlex.join(["python", "-m", "sweep", verb, str(self._config), *over])
        return f"{words} {rest}".strip()

    def never_launched(self) -> str:
        """What to know of a sweep that is looked back on, and was not launched; "" of one that was."""
        if self.launched:
            return ""
        others = ", ".join(sorted(self.store.names("sweeps"))) or "none"
        return f"{self.sweep.name} was never launched into {self.store.url} (there: {others}); this is what is planned"

    def head(self) -> launch_status.LaunchStatus | None:
        """The last word of the head that this sweep runs on; None on this machine."""
        return None if self.on_this_machine else launch_status.read(self.store, self.sweep.name)

    def status_table(self, state: SweepStatus, head: launch_status.LaunchStatus | None) -> Group:
        """What the store holds of the plan, and what the head says, for a person."""
        shown = table(self.sweep, replace(self.platform, slots=self._slots_there(head)), state)
        said = [] if head is None else follow.lines(head, self.sweep.budget)
        return Group(shown, *(Text(line) for line in said))

    def status_json(self, state: SweepStatus, head: launch_status.LaunchStatus | None) -> dict[str, Any]:
        """The same for programs; seconds are None where no machine is there."""
        slots = self._slots_there(head)
        found = state.to_json(slots)
        return {
            **found,
            "seconds": found["seconds"] if slots or not found["to_run"] else None,
            "failures": state.failures(),
            "head": None if head is None else head.to_json(),
            "budget": self.sweep.budget.model_dump(mode="json"),
        }

    def _slots_there(self, head: launch_status.LaunchStatus | None) -> int:
        """Trials at once on the machines of now, as the head says."""
        if self.on_this_machine:
            return self.platform.slots
        return 0 if head is None or head.has_ended else head.slots

    def plan_table(self, state: SweepStatus, unreached: str = "") -> Group:
        """The plan for a person, with machines and dollars; `unreached` as `read_status_if_reached` says."""
        machines: list[str] = []
        if isinstance(self.sweep.cluster, Aws):
            from sweep.providers.aws.estimate import estimate
            from sweep.providers.aws.provider import plan_lines

            machines = plan_lines(self.sweep, self.store, estimate(self.sweep, state), unreached)
        shown = table(self.sweep, self.platform, state, unreached, machines)
        return Group(shown, *(Text(line, style="yellow") for line in self._cautions()))

    def plan_json(self, state: SweepStatus, unreached: str) -> dict[str, Any]:
        """The plan for programs."""
        found = {**state.to_json(self.platform.slots), "cautions": self._cautions()}
        if unreached:
            found |= {"done": None, "failed": None, "pruned": None, "stale": None, "store": unreached}
        if isinstance(self.sweep.cluster, Aws):
            from sweep.providers.aws.estimate import estimate

            found["aws"] = estimate(self.sweep, state).to_json()
        return found

    def _cautions(self) -> list[str]:
        """What whoever reads the plan should know."""
        own = [line.sentence() for line in user_code.cautions(self.sweep)]
        return [said for said in (self.platform.caution, unheld_budget(self.sweep), *own) if said]

    def ray_yaml(self, state: SweepStatus) -> str:
        """What Ray's launcher would be given, or Slurm."""
        match self.sweep.cluster:
            case Aws():
                from sweep.providers.aws.provider import ray_yaml

                return ray_yaml(self.sweep, state)
            case OnPrem():
                from sweep.providers.onprem.ray_config import yaml_text

                return yaml_text(self.sweep)
            case Slurm():
                from sweep.providers.slurm.scripts import scripts_text as scripts

                return scripts(self.sweep)
            case other:
                raise UserError(
                    f"--ray-yaml: provider {other.provider} needs no launcher of Ray's; it is for provider aws and "
                    "onprem, and for slurm, whose scripts it prints"
                )

    def launch(self, state: SweepStatus, console: Console, *, skip_failed: bool, detach: bool) -> Outcome:
        """Run what is left: in this process, or on the place that the YAML names."""
        from sweep.errors import Outcome
        from sweep.launch.local import Launch
        from sweep.launch.remote import RemoteLaunch
        from sweep.providers.registry import pin, provider_of

        user_code.refuse(self.sweep)
        sweep = pin(self.sweep)
        place = provider_of(sweep, state)
        rest = (self.work, self.platform, self.store, self.ledger, console)
        if place is not None:
            return RemoteLaunch(sweep, *rest, place, self.command, skip_failed).run(detach=detach)
        refuse_busy_cards(self.sweep)
        return Outcome(Launch(sweep, *rest, lambda key: self.command("trial", f"{key} --log"), skip_failed).run())

    def reporting(self, selection: str = "last", evaluation: str = "clean", metric: str = "auroc") -> Reporting:
        """The leaderboard from what the store holds now."""
        from sweep.report.report import Reporting

        return Reporting(self.read_status(), self.ledger, selection, evaluation, metric, self.usd_per_hour)
