"""The contract of every provider, which plans, checks, launches, `status` and `down` rely on.

The providers are the real ones; `tests.providers.premises` replaces the services and programs of their machines.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from sweep.errors import AlreadyRuns, UserError
from sweep.plan.expand import expand
from sweep.plan.status import SweepStatus, read_status
from sweep.providers.base import Provider
from sweep.providers.registry import PROVIDERS, provider_of
from sweep.spec import cluster
from sweep.spec.sweep import Budget
from sweep.store import open_store
from sweep.store.base import Store
from sweep.store.ledger import Ledger
from tests.providers.premises import Premises
from tests.support.providers import STATUS

CONSOLE = Console(quiet=True)
DEADLINE = time.time() + 7200


def store_and_status(provider: Provider[Any], folder: Path) -> tuple[Store, SweepStatus]:
    """Return an empty store, and the status of the sweep for it."""
    store = open_store(str(folder / "empty"))
    work = expand(provider.sweep, provider.platform())
    return store, read_status(work, Ledger(store, provider.sweep.name))


class TestEveryProvider:
    """Plans and checks, and no resources before a launch."""

    def test_the_registry_finds_it_by_the_name_of_its_section(self, provider: Provider[Any]) -> None:
        name = provider.sweep.cluster.provider
        assert PROVIDERS[name] == f"{type(provider).__module__}:{type(provider).__qualname__}"
        assert cluster.PROVIDERS[name] is type(provider).section
        assert isinstance(provider_of(provider.sweep), type(provider))
        assert provider.cluster is provider.sweep.cluster

    def test_its_platform_runs_trials(self, provider: Provider[Any]) -> None:
        found = provider.platform()
        assert found.slots >= 1 and found.cpus >= 1 and found.device
        assert found.whole_gpus == 0 or found.gpus > 0

    def test_findings_are_lines_with_a_fix_where_they_are_not_ok(self, provider: Provider[Any]) -> None:
        found = [*provider.store_findings(fix=False), *provider.findings(fix=False)]
        assert all(line.name and line.found for line in found)
        assert bool(found) == (not provider.cluster.runs_here)

    def test_a_plan_shows_machines_and_prices_only_where_they_would_be_made(
        self, provider: Provider[Any], tmp_path: Path
    ) -> None:
        store, status = store_and_status(provider, tmp_path)
        lines = provider.plan_lines(status, store, "")
        assert bool(lines) == bool(provider.plan_json(status)) == provider.adds_workers
        assert json.loads(json.dumps(provider.plan_json(status))) == provider.plan_json(status)

    def test_dollars_of_a_plan_are_known_where_prices_are(self, provider: Provider[Any], tmp_path: Path) -> None:
        _, status = store_and_status(provider, tmp_path)
        dollars = provider.dollars(status, provider.platform())
        assert (dollars is not None) == provider.knows_prices
        assert dollars is None or dollars > 0

    def test_the_launchers_input_is_printed_or_refused_with_the_reason(
        self, provider: Provider[Any], tmp_path: Path
    ) -> None:
        _, status = store_and_status(provider, tmp_path)
        try:
            assert provider.launcher_config(status).strip()
        except UserError as error:
            assert f"provider {provider.sweep.cluster.provider} does not use Ray's launcher" in str(error)

    def test_a_budget_of_dollars_is_enforced_or_it_is_said_that_it_is_not(self, provider: Provider[Any]) -> None:
        assert provider.budget_caution() == ""
        limited = provider.sweep.model_copy(update={"budget": Budget(max_usd=5, max_hours=2)})
        assert bool(provider_of(limited).budget_caution()) == (not provider.knows_prices)

    def test_a_pinned_sweep_has_the_same_provider_and_is_pinned(self, provider: Provider[Any]) -> None:
        pinned = provider.pin()
        assert provider_of(pinned).pin() == pinned
        assert pinned.name == provider.sweep.name

    def test_only_this_machine_has_the_environment_of_this_process(self, provider: Provider[Any]) -> None:
        assert (provider.environment() is None) == provider.cluster.runs_here

    def test_where_nothing_was_made_nothing_stands(self, provider: Provider[Any]) -> None:
        assert (provider.is_alive(), provider.resources(), provider.teardown(CONSOLE)) == (False, [], [])

    def test_only_a_provider_with_a_head_takes_a_launch(self, provider: Provider[Any]) -> None:
        if provider.cluster.runs_here:
            assert provider.provision(STATUS, CONSOLE, DEADLINE) == DEADLINE
            with pytest.raises(UserError, match="has no head"):
                provider.submit(1)
            assert provider.commands() == {}


class TestMachines:
    """Launches on every provider with machines other than this one."""

    def test_made_again_the_same_stands(self, premises: Premises) -> None:
        provider = premises.provider
        stop = provider.provision(STATUS, CONSOLE, DEADLINE)
        alive, existing = provider.is_alive(), provider.resources()
        assert stop is not None and stop <= DEADLINE
        again = provider.provision(STATUS, CONSOLE, DEADLINE + 60)
        assert again is not None and again <= DEADLINE + 60
        assert (provider.is_alive(), provider.resources()) == (alive, existing)

    def test_a_launch_is_submitted_once_and_another_beside_it_is_refused(self, premises: Premises) -> None:
        provider = premises.provider
        provider.provision(STATUS, CONSOLE, DEADLINE)
        provider.submit(3)
        provider.submit(3)
        assert premises.list_launches() == [3] and provider.is_alive() is True
        with pytest.raises(AlreadyRuns):
            provider.submit(4)
        assert premises.list_launches() == [3]

    def test_taking_down_lists_what_it_removes_and_leaves_only_what_is_others(self, premises: Premises) -> None:
        provider, others = premises.provider, premises.list_others()
        provider.provision(STATUS, CONSOLE, DEADLINE)
        provider.submit(1)
        existing = provider.resources()
        assert existing and others
        removed = provider.teardown(CONSOLE)
        assert {line.partition(",")[0] for line in existing} <= {line.partition(",")[0] for line in removed}
        assert (provider.is_alive(), provider.resources(), provider.teardown(CONSOLE)) == (False, [], [])
        assert premises.list_launches() == [] and premises.list_others() == others

    def test_what_was_taken_down_can_be_launched_again(self, premises: Premises) -> None:
        provider = premises.provider
        for number in (1, 2):
            provider.provision(STATUS, CONSOLE, DEADLINE)
            provider.submit(number)
            assert premises.list_launches() == [number] and provider.is_alive() is True
            provider.teardown(CONSOLE)

    def test_what_a_lost_head_leaves_is_removed_before_another_is_made_and_by_taking_down(
        self, premises: Premises
    ) -> None:
        provider = premises.provider
        for number in (1, 2):
            provider.provision(STATUS, CONSOLE, DEADLINE)
            provider.submit(number)
            existing = len(provider.resources())
            assert premises.list_launches() == [number]
            premises.lose_head()
            assert provider.is_alive() is False
            assert len(provider.resources()) < existing
        provider.teardown(CONSOLE)
        assert provider.resources() == []

    def test_what_a_launch_that_failed_half_way_has_made_is_taken_down(self, premises: Premises) -> None:
        provider = premises.provider
        premises.refuse()
        with pytest.raises(UserError):
            provider.provision(STATUS, CONSOLE, DEADLINE)
            provider.submit(1)
        provider.teardown(CONSOLE)
        assert (provider.is_alive(), provider.resources()) == (False, [])

    @pytest.mark.parametrize("asked", ["provision", "submit", "teardown"])
    def test_where_nobody_answers_nothing_is_claimed(self, premises: Premises, asked: str) -> None:
        provider = premises.provider
        commands = provider.commands()
        premises.lose_connection()
        calls: dict[str, Callable[[], object]] = {
            "provision": lambda: provider.provision(STATUS, CONSOLE, DEADLINE),
            "submit": lambda: provider.submit(1),
            "teardown": lambda: provider.teardown(CONSOLE),
        }
        with pytest.raises(UserError):
            calls[asked]()
        assert provider.is_alive() is None
        with suppress(UserError):
            assert provider.resources(), "it must not report that nothing exists"
        assert provider.commands() == commands

    def test_commands_are_the_shells(self, premises: Premises) -> None:
        commands = premises.provider.commands()
        assert commands and all(commands.values())
        for lines in commands.values():
            subprocess.run(["bash", "-n"], input="\n".join(lines), text=True, check=True)
