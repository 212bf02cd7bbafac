"""Implementation of `down`: remove the machines of a sweep, and record in its store that they are gone."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.console import Console

from sweep.console import say
from sweep.errors import UserError
from sweep.launch.follow import SILENT_SECONDS
from sweep.plan.launch_record import command_from_argv
from sweep.providers.registry import provider_of
from sweep.spec.cluster import PROVIDERS
from sweep.spec.sweep import Sweep
from sweep.store import launch_status, open_store
from sweep.store.base import StoreError
from sweep.store.lease import owner_name
from sweep.store.ledger import Ledger

CLOSE_SECONDS = 30.0  # time for the store to answer: the machines are gone, and only `status` needs to know


def down(sweep: Sweep, argv: Sequence[str], console: Console, confirm: Callable[[], None]) -> None:
    """Remove all machines of a sweep, and record in its store that they are gone.

    Args:
        sweep: the sweep; its `cluster` names the provider that is asked for machines.
        argv: command line of this command, after the program's name.
        console: for progress.
        confirm: called once before anything is removed; raises an error to prevent it.

    Raises:
        UserError: nothing was found, but the last launch made machines elsewhere.
    """
    provider = provider_of(sweep)
    if sweep.cluster.runs_here:
        say(console, f"provider {sweep.cluster.provider} makes no machines: Ctrl-C in its own terminal ends a launch")
        _close(sweep, argv, console)
        return
    resources = provider.resources()
    if not resources:
        say(console, f"nothing of this sweep was found: {_where(sweep.cluster.model_dump())}")
        _close(sweep, argv, console, f"its machines were gone when {owner_name()} looked")
        return
    say(console, "found:")
    for line in resources:
        say(console, f"  {line}")
    confirm()
    began = time.time()
    removed = provider.teardown(console)
    say(console, "removed:")
    for line in removed:
        say(console, f"  {line}")
    _close(sweep, argv, console, f"taken down by {owner_name()}", since=began)


def _close(sweep: Sweep, argv: Sequence[str], console: Console, cause: str = "", since: float | None = None) -> None:
    """Record in the store that the launch has ended, if the store can be reached.

    Args:
        sweep: sweep whose machines are gone.
        argv: command line of this command.
        console: for progress.
        cause: why the machines are gone; "" if the provider makes none.
        since: time at which their removal began; None if none were found.  Then the launch is only closed if its head
            is silent.

    Raises:
        UserError: nothing was found, but the last launch made machines elsewhere.
    """
    try:
        store = open_store(sweep.storage, min(CLOSE_SECONDS, sweep.budget.outage_seconds))
        if elsewhere := _elsewhere(sweep, Ledger(store, sweep.name), argv):
            if since is None:
                raise UserError(elsewhere)
            # The sweep was moved to another provider, and its machines here are gone.
            say(console, elsewhere, style="yellow")
            return
        head = launch_status.read(store, sweep.name) if cause else None
        if head is not None and (since is not None or time.time() - head.time > SILENT_SECONDS):
            launch_status.close(store, sweep.name, cause, since=since)
    except StoreError as error:
        what = (
            "`status` will not show that the launch has ended" if cause else "it is unknown where the last launch was"
        )
        say(console, f"{what}: {error}", style="yellow")


def _elsewhere(sweep: Sweep, ledger: Ledger, argv: Sequence[str]) -> str | None:
    """Return a text that the last launch made machines elsewhere, with the command to remove them.

    Returns:
        None if the last launch used the provider and region of this command.
    """
    for record in reversed(ledger.specs()):
        last = {"provider": "local", **record.get("sweep", {}).get("cluster", {})}
        section = PROVIDERS.get(last["provider"])
        if section is not None and section.runs_here:  # machines of an earlier launch may still be up
            continue
        if _location(last) == _location(sweep.cluster.model_dump()):
            return None
        same = last["provider"] == sweep.cluster.provider
        command = command_from_argv("down", argv if same else record.get("argv", ()))
        options = "".join(
            f" --set cluster.{key}={value}" for key, value in _location(last).items() if key != "provider"
        )
        return f"the last launch of sweep {sweep.name} was elsewhere: {_where(last)}; look there: {command}{options}"
    return None


def _location(cluster: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a section `cluster` that decides where `down` looks: its provider, and its region, say."""
    section = PROVIDERS.get(cluster["provider"])
    keys = () if section is None else section.location_keys
    return {key: cluster[key] for key in ("provider", *keys) if key in cluster}


def _where(cluster: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in _location(cluster).items())
