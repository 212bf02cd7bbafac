"""Providers by name.

The module of a provider is imported only if a sweep uses it: boto3 alone takes half a second to import.
"""

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
    """Return the provider that the section `cluster` of a sweep names."""
    module, _, name = PROVIDERS[sweep.cluster.provider].partition(":")
    provider: Provider[Any] = getattr(import_module(module), name)(sweep)
    return provider
