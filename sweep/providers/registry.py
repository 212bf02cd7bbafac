"""Providers by name.  A provider's module is imported when a sweep uses it: boto3 alone costs half a second."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from sweep.providers.base import Provider
from sweep.spec.sweep import Sweep

PROVIDERS = {
    "local": "sweep.providers.local:LocalProvider",
    "aws": "sweep.providers.aws.provider:AwsProvider",
    "onprem": "sweep.providers.onprem.provider:OnPremProvider",
    "slurm": "sweep.providers.slurm.provider:SlurmProvider",
    "existing": "sweep.providers.existing.provider:ExistingProvider",
}


def provider_of(sweep: Sweep) -> Provider[Any]:
    """Return the provider that a sweep's `cluster` names."""
    module, _, name = PROVIDERS[sweep.cluster.provider].partition(":")
    provider: Provider[Any] = getattr(import_module(module), name)(sweep)
    return provider
