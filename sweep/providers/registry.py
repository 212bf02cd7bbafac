"""Providers by name, and what a sweep asks of its own."""

from __future__ import annotations

from sweep.plan.platform import Host, Platform, fit
from sweep.plan.status import SweepStatus
from sweep.providers.base import Bill, Provider, Refused
from sweep.providers.local import _this_machine
from sweep.spec.cluster import Aws, Existing, Local, OnPrem, Slurm
from sweep.spec.sweep import Sweep


def bill_of(sweep: Sweep) -> Bill | None:
    """What lists a sweep's machines with their prices, where the place knows any."""
    if not isinstance(sweep.cluster, Aws):
        return None
    from sweep.providers.aws.billing import bill

    return bill(sweep)


def refused_of(sweep: Sweep) -> Refused | None:
    """What the place last answered when it gave no machine, where it is asked for some while the launch runs."""
    if not isinstance(sweep.cluster, Aws):
        return None
    from sweep.providers.aws.capacity import last

    return last


def pin(sweep: Sweep) -> Sweep:
    """The sweep with the machine image that `auto` stands for now, so that the record of a launch names it.

    Raises:
        UserError: nobody says which that is.
    """
    if not isinstance(sweep.cluster, Aws):
        return sweep
    from sweep.providers.aws import defaults

    return sweep.model_copy(
        update={"cluster": sweep.cluster.model_copy(update={"image": defaults.image(sweep.cluster)})}
    )


def provider_of(sweep: Sweep, status: SweepStatus | None = None) -> Provider | None:
    """The place of a sweep; None for this machine, where a launch runs in its own process.

    Args:
        sweep: whose `cluster` says where.
        survey: what is left to run, for the number of machines; only `make` needs it.
    """
    match sweep.cluster:
        case Local():
            return None
        case Aws():
            from sweep.providers.aws.provider import AwsProvider  # boto3 costs half a second

            return AwsProvider(sweep, status)
        case OnPrem():
            from sweep.providers.onprem.provider import OnPremProvider

            return OnPremProvider(sweep)
        case Slurm():
            from sweep.providers.slurm.provider import SlurmProvider

            return SlurmProvider(sweep)
        case Existing():
            from sweep.providers.existing.provider import ExistingProvider

            return ExistingProvider(sweep)


def platform(sweep: Sweep) -> Platform:
    """What a sweep's machines give each trial, and how many run at once.

    Raises:
        UserError: if more is asked for than there is.
    """
    match sweep.cluster:
        case Local():
            return _this_machine(sweep, sweep.cluster)
        case Aws():
            from sweep.providers.aws.instances import platform as of_aws  # no launch on this machine needs it

            return of_aws(sweep)
        case Existing():
            from sweep.providers.existing.dashboard import platform as of_existing

            return of_existing(sweep)
        case OnPrem() as cluster:
            machines = cluster.offering
        case Slurm() as cluster:
            machines = cluster.nodes
    return fit(sweep, [Host(cluster.cpus, cluster.gpus)] * machines, cluster.gpu, cluster.capability)
