"""Verbs that run a sweep, or look at one that runs: launch, plan, check, status, down."""

from __future__ import annotations

import sys
import time
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from sweep.cli.options import All, Config, Json, Set, Yes, ask, err, out, print_json

WATCH_SECONDS = 5.0

if TYPE_CHECKING:
    from sweep.plan.status import SweepStatus


def launch(
    config: Config,
    assignments: Set = [],  # noqa: B006  (typer reads it, nobody changes it)
    yes: Yes = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan, start nothing.")] = False,
    detach: Annotated[bool, typer.Option("--detach", help="Leave it to the head as soon as it runs there.")] = False,
    skip_failed: Annotated[bool, typer.Option("--skip-failed", help="Leave failed trials alone.")] = False,
) -> None:
    """Show the plan, ask, run it, report.

    Run it again to go on where it was stopped; what has a result is never run twice.  On machines of a
    cloud Ctrl-C leaves it running there: `status --watch` shows it, `down` ends it.

    \b
    python -m sweep launch clusters/local.yaml
    python -m sweep launch clusters/local.yaml -y --set sweep.seeds=5 --set sweep.datasets=[mnist]
    python -m sweep launch clusters/aws.yaml --detach

    Exit codes: 0 done (with --detach: it runs), 1 your input, the store or the machines, 2 some trials
    failed, 3 stopped by the budget, 130 by Ctrl-C.
    """
    from sweep.cli.session import Session
    from sweep.errors import DONE, SOME_FAILED, Outcome, UserError

    session = Session(config, assignments, to_launch=True)
    if detach and session.runs_here:
        name = session.sweep.cluster.provider
        raise UserError(f"--detach: provider {name} runs in this process; it is for clusters that have a head")
    status = session.read_status()
    out.print(session.plan_table(status))
    if dry_run:
        return
    again = status.count("to_run") or (status.count("failed") and not skip_failed)
    if again and not yes:
        ask("Proceed?")
    outcome = Outcome(SOME_FAILED if status.count("failed") else DONE)
    after: SweepStatus | None = status
    if again:
        outcome, after = session.launch(status, out, skip_failed=skip_failed, detach=detach)
    if outcome.finished:
        session.reporting(status=after).show(out)
    raise typer.Exit(outcome.code)


def plan(
    config: Config,
    assignments: Set = [],  # noqa: B006
    as_json: Json = False,
    ray_yaml: Annotated[
        bool,
        typer.Option(
            "--ray-yaml", help="Print what Ray's launcher would be given, checked by Ray; or Slurm's scripts."
        ),
    ] = False,
) -> None:
    """Show what would run, what is done, how long it will take and what it costs.

    Starts nothing.  Results of older revisions of the code are shown as stale and run again.
    Where the store cannot be reached, what is done is unknown, and all is counted as to run.

    \b
    python -m sweep plan clusters/local.yaml --set sweep.study=nz
    python -m sweep plan clusters/aws.yaml --ray-yaml
    """
    from sweep.cli.session import Session

    session = Session(config, assignments)
    status, unreached = session.read_status_if_reached()
    if ray_yaml:
        sys.stdout.write(session.provider.launcher_config(status))
    elif as_json:
        print_json(session.plan_json(status, unreached))
    else:
        out.print(session.plan_table(status, unreached))
        out.print(f"Nothing was started.  Launch: {session.command('launch')}", markup=False, soft_wrap=True)


def check(
    config: Config,
    assignments: Set = [],  # noqa: B006
    fix: Annotated[bool, typer.Option("--fix", help="Make what is missing and may be made: bucket and roles.")] = False,
    as_json: Json = False,
) -> None:
    """Look at everything that a launch needs: storage, data, slots; on a cloud the account, too.

    Starts nothing.  Each line is ok or not ok, with what fixes it; exit code 1 if any is not ok.

    \b
    python -m sweep check clusters/aws.yaml
    python -m sweep check clusters/aws.yaml --fix
    """
    from sweep.launch.check import check as look
    from sweep.providers.finding import table
    from sweep.spec.load import load

    found = look(load(config, assignments), fix=fix)
    if as_json:
        findings = [finding.to_json() for finding in found.findings]
        print_json({"passed": found.passed, "findings": findings, "commands": found.commands})
    else:
        out.print(table(found.findings))
        for kind, commands in found.commands.items():
            out.print(f"run on the {kind}:" if kind == "head" else f"run on each {kind}:")
            for command in commands:
                out.print(f"  {command}", style="dim", markup=False, soft_wrap=True)
    if not found.passed:
        raise typer.Exit(1)


def status(
    config: Config,
    assignments: Set = [],  # noqa: B006
    everything: All = False,
    as_json: Json = False,
    watch: Annotated[bool, typer.Option("--watch", help="Again every 5 seconds, until Ctrl-C.")] = False,
) -> None:
    """Show how far the sweep is, its failures by cause, and the machines that it runs on.

    From the store alone: also while the sweep runs, from any machine that reaches the store.
    With --watch a store that does not answer, such as where the network is gone, is asked again.
    """
    from sweep.cli.session import Session
    from sweep.store.base import StoreError

    session = Session(config, assignments, as_launched=True, everything=everything)
    while True:
        try:
            state, head = session.read_status(), session.head()
        except StoreError as error:
            if not watch:
                raise
            err.print(f"asking again: {error}", style="yellow", markup=False, soft_wrap=True)
        else:
            if as_json:
                print_json(session.status_json(state, head))
            else:
                out.print(session.status_table(state, head))
                for cause, keys in state.failures().items():
                    line = f"{len(keys)} x {cause}   log: {session.command('trial', f'{keys[0]} --log')}"
                    out.print(line, style="red", markup=False, soft_wrap=True)
        if not watch:
            return
        time.sleep(WATCH_SECONDS)


def down(
    config: Config,
    assignments: Set = [],  # noqa: B006
    yes: Yes = False,
) -> None:
    """Remove every machine, disk, key pair and security group that was made for this sweep.

    Goes by what the cloud says, so it works when the head is dead and when the store cannot be reached.
    Looks where the command line says; with nothing there and the last launch in another region it fails.
    What runs is ended; every result stays, and the next launch goes on from there.

    \b
    python -m sweep down clusters/aws.yaml
    """
    from sweep.launch.down import down as take_down
    from sweep.spec.load import load

    argv = ["down", str(config), *(word for assignment in assignments for word in ("--set", assignment))]
    confirm = partial(ask, "Remove all of it?")
    take_down(load(config, assignments), argv, out, (lambda: None) if yes else confirm)
