"""Commands that run a sweep or look at a running one: launch, plan, check, status, down."""

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
    assignments: Set = [],  # noqa: B006  (typer reads it, and it is never changed)
    yes: Yes = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan; start nothing.")] = False,
    detach: Annotated[
        bool, typer.Option("--detach", help="Exit as soon as the launch runs on the head; do not follow it.")
    ] = False,
    skip_failed: Annotated[
        bool, typer.Option("--skip-failed", help="Do not run trials that have failed before.")
    ] = False,
) -> None:
    """Show the plan, ask, run all trials, and print the leaderboard.

    Run the same command again to resume a launch that was stopped.
    A trial that has a result never runs again.
    Nothing starts before you answer yes, or give -y.

    On this machine, Ctrl-C lets running trials write their resume state.
    On other machines, Ctrl-C only stops watching: the launch goes on there.
    Then `status --watch` shows it, and `down` ends it.

    \b
    python -m sweep launch clusters/local.yaml
    python -m sweep launch clusters/local.yaml -y --set sweep.seeds=5 --set sweep.datasets=[mnist]
    python -m sweep launch clusters/aws.yaml --detach

    Exit codes: 0 done (with --detach: it runs), 1 a problem with your input, the store or the machines, 2 some trials
    failed, 3 stopped by the budget, 130 stopped by Ctrl-C.
    """
    from sweep.cli.session import Session
    from sweep.errors import DONE, SOME_FAILED, Outcome, UserError

    session = Session(config, assignments, to_launch=True, to_run=True)
    if detach and session.runs_here:
        name = session.sweep.cluster.provider
        raise UserError(f"--detach: provider {name} runs in this process; use it with a provider that has a head")
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
            "--ray-yaml", help="Print the input of Ray's launcher, checked by Ray; with slurm, the job's scripts."
        ),
    ] = False,
) -> None:
    """Show what would run, how long it takes and what it costs.

    It also shows which trials are done already.  Never starts anything.

    Results of an older revision of the code count as stale: these trials run again.
    If the store cannot be reached, it is unknown what is done, and all trials count as to run.

    \b
    python -m sweep plan clusters/local.yaml --set sweep.study=nz
    python -m sweep plan clusters/aws.yaml --ray-yaml

    Exit codes: 0 shown, 1 a problem with your input.
    """
    from sweep.cli.session import Session

    session = Session(config, assignments, to_run=True)
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
    fix: Annotated[bool, typer.Option("--fix", help="On AWS, make the bucket and the roles that are missing.")] = False,
    as_json: Json = False,
) -> None:
    """Check everything that a launch needs.

    That is storage, data, slots and machines; on AWS, also the account.
    Starts nothing.  It writes one small object to the store and deletes it again.

    Each line of the output is ok, not ok or unknown, and has the fix if there is one.
    After the lines you see the commands that the machines would run.

    \b
    python -m sweep check clusters/aws.yaml
    python -m sweep check clusters/aws.yaml --fix

    Exit codes: 0 if no line is "not ok", else 1.
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
    watch: Annotated[bool, typer.Option("--watch", help="Show it again every 5 seconds, until Ctrl-C.")] = False,
) -> None:
    """Show progress, failures and machines of a sweep.

    Failures are grouped by cause, with the command that shows their log.
    Reads only the store: it works while the sweep runs, and from any machine that can reach the store.
    Never starts or stops anything.

    With --watch it tries again if the store does not answer, for example because the network is down.

    \b
    python -m sweep status clusters/local.yaml
    python -m sweep status clusters/aws.yaml --watch

    Exit codes: 0 shown, 1 a problem with your input or the store.
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
    """End a sweep and remove its machines.

    On AWS it removes every machine, disk, key pair and security group that was made for this sweep.
    On your own hosts, Slurm or an existing Ray cluster, it ends only this sweep's processes or job.
    It lists what it found, and asks before it removes anything.
    Results are never removed: the next launch goes on from there.

    It asks the provider what exists, so it works if the head is dead or the store cannot be reached.
    It looks only where the command line points.  If nothing is there, but the last launch was elsewhere, it fails
    and prints the command for that launch.

    \b
    python -m sweep down clusters/aws.yaml

    Exit codes: 0 removed, or nothing was there, 1 something may be left.
    """
    from sweep.launch.down import down as take_down
    from sweep.spec.load import load

    argv = ["down", str(config), *(word for assignment in assignments for word in ("--set", assignment))]
    confirm = partial(ask, "Remove all of it?")
    take_down(load(config, assignments), argv, out, (lambda: None) if yes else confirm)
