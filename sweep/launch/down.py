"""End a sweep elsewhere: remove its machines, and record in the store that they are gone."""

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
from sweep.spec.sweep import Sweep
from sweep.store import launch_status, open_store
from sweep.store.base import StoreError
from sweep.store.lease import owner_name
from sweep.store.ledger import Ledger


def down(sweep: Sweep, argv: Sequence[str], console: Console, confirm: Callable[[], None]) -> None:
    """Remove all machines of a sweep, and record in its store that they are gone.

    Args:
        sweep: whose machines are removed, where its `cluster` says.
        argv: the command line of this command, after the program's name.
        console: for progress.
        confirm: called once, before anything is removed; raises if nothing shall be.

    Raises:
        UserError: nothing was found, and the last launch made machines elsewhere.
    """
    provider = provider_of(sweep)
    if sweep.cluster.runs_here:
        say(console, f"provider {sweep.cluster.provider} makes no machines: Ctrl-C in its own terminal ends a launch")
        _close(sweep, argv, console)
        return
    resources = provider.resources()
    if not resources:
        say(console, f"nothing of this sweep is there: {_where(sweep.cluster.model_dump())}")
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
    """Have `status` say so, where the store can be reached; without `since` only of a head that is silent.

    Args:
        sweep: whose machines are gone, where they were looked for.
        argv: of this command.
        console: for progress.
        cause: why they are gone; "" where none were looked for.
        since: when taking them away began.

    Raises:
        UserError: nothing was found, and the last launch made machines elsewhere.
    """
    try:
        store = open_store(sweep.storage)
        if elsewhere := _elsewhere(sweep, Ledger(store, sweep.name), argv):
            if since is None:
                raise UserError(elsewhere)
            say(console, elsewhere, style="yellow")  # a sweep that was moved: what it left here is gone
            return
        head = launch_status.read(store, sweep.name) if cause else None
        if head is not None and (since is not None or time.time() - head.time > SILENT_SECONDS):
            launch_status.close(store, sweep.name, cause, since=since)
    except StoreError as error:
        what = "`status` will not say so" if cause else "where it was launched last is not known"
        say(console, f"{what}: {error}", style="yellow")


def _elsewhere(sweep: Sweep, ledger: Ledger, argv: Sequence[str]) -> str | None:
    """Where the last launch made machines, and what looks there; None where this sweep's machines are."""
    for record in reversed(ledger.specs()):
        last = record.get("sweep", {}).get("cluster", {})
        if last.get("provider", "local") == "local":  # machines of an earlier launch may still be up
            continue
        if _where(last) == _where(sweep.cluster.model_dump()):
            return None
        command = command_from_argv(
            "down", argv if last["provider"] == sweep.cluster.provider else record.get("argv", ())
        )
        region = f" --set cluster.region={last['region']}" if "region" in last else ""
        return f"the last launch of sweep {sweep.name} was elsewhere: {_where(last)}; look there: {command}{region}"
    return None


def _where(cluster: Mapping[str, Any]) -> str:
    """What of a cluster says where `down` looks."""
    region = f", region {cluster['region']}" if "region" in cluster else ""
    return f"provider {cluster['provider']}{region}"
