"""The keys of `cluster:`, by provider: where trials run, and on what."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, model_validator

_INSTANCE_TYPE = re.compile(r"[a-z][a-z0-9-]*\.[a-z0-9-]+")
_PROFILE = re.compile(r"[A-Za-z0-9+=,.@_-]{1,128}")


class Section(BaseModel):
    """A mapping of the YAML; unknown keys are faults."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def _instance_type(value: str) -> str:
    if not _INSTANCE_TYPE.fullmatch(value):
        raise ValueError(f"must be an instance type of EC2, e.g. g5.xlarge, is {value!r}")
    return value


def _image(value: str) -> str:
    if value != "auto" and not re.fullmatch(r"ami-[0-9a-f]{8,17}", value):
        raise ValueError(f"must be auto or the id of an image, e.g. ami-0123456789abcdef0, is {value!r}")
    return value


def _network(value: str) -> str:
    """An address or network as CIDR; one that opens SSH to everybody is refused."""
    if value == "auto":
        return value
    try:
        network = ipaddress.ip_network(value, strict=False)
    except ValueError:
        raise ValueError(f"must be auto, an address or a network, e.g. 203.0.113.7/32, is {value!r}") from None
    if network.prefixlen == 0:
        raise ValueError(f"{value} opens SSH to everybody; give your own address, e.g. 203.0.113.7/32")
    return str(network)


def _profile(value: str) -> str:
    if not _PROFILE.fullmatch(value):
        raise ValueError(f"must be letters, digits and +=,.@_-, at most 128, is {value!r}")
    return value


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


InstanceType = Annotated[str, AfterValidator(_instance_type)]


class Local(Section):
    """This machine: Ray is started and stopped."""

    provider: Literal["local"] = Field("local", description="local: Ray on this machine, started and stopped")
    cpus: Literal["auto"] | Annotated[int, Field(ge=1)] = Field(
        "auto", description="CPU cores to use; auto: those this process may use"
    )
    gpus: Literal["auto"] | Annotated[int, Field(ge=0)] = Field(
        "auto",
        description="GPUs to use; auto: those that nvidia-smi lists, within CUDA_VISIBLE_DEVICES, and nobody is using",
    )
    usd_per_hour: Annotated[float, Field(ge=0)] | None = Field(
        None, description="price of this machine, shared by its slots, for the report's cost; none: not known"
    )


class Price(Section):
    """What a machine costs, in dollars an hour."""

    on_demand: Annotated[float, Field(ge=0)] | None = Field(None, description="dollars an hour on demand")
    spot: Annotated[float, Field(ge=0)] | None = Field(None, description="dollars an hour as spot")


class Aws(Section):
    """Machines of EC2: a head on demand, workers as spot where there is capacity."""

    provider: Literal["aws"] = Field("aws", description="aws: machines of EC2, made for this sweep and terminated")
    region: Annotated[str, Field(pattern=r"^[a-z]{2}(-[a-z]+)+-[0-9]+$")] = Field(
        "us-east-1", description="region of machines and of the bucket"
    )
    zones: Literal["auto"] | tuple[str, ...] = Field(
        "auto", description="availability zones to take machines from; auto: every one with a public subnet"
    )
    head: InstanceType = Field("m6i.large", description="instance type of the head, which runs no trials")
    worker: Annotated[tuple[InstanceType, ...], BeforeValidator(_listed), Field(min_length=1)] = Field(
        ("g5.xlarge", "g6.xlarge"), description="instance types of workers, the first that has capacity is taken"
    )
    spot: bool = Field(True, description="workers as spot, on demand where no zone has spot capacity")
    max_workers: Annotated[int, Field(ge=1)] = Field(
        8, description="most workers at once; as many as meet budget.max_hours are made"
    )
    idle_minutes: Annotated[float, Field(gt=0)] = Field(5.0, description="minutes without trials that end a worker")
    image: Annotated[str, AfterValidator(_image)] = Field(
        "auto", description="machine image; auto: AWS's newest deep learning base image, `check` prints its id"
    )
    environment: Annotated[str, Field(pattern=r"^/[\w./-]+$")] | None = Field(
        None, description="folder of a ready Python environment in the image; none: made on each machine, pinned"
    )
    ssh_user: Annotated[str, Field(pattern=r"^[a-z_][a-z0-9_-]*$")] = Field("ubuntu", description="user of the image")
    ssh_from: Annotated[str, AfterValidator(_network)] = Field(
        "auto", description="network that may reach SSH, e.g. 203.0.113.7/32; auto: this machine's public address"
    )
    head_profile: Annotated[str, AfterValidator(_profile)] = Field(
        "sweep-head", description="instance profile of the head; `check --fix` makes it"
    )
    worker_profile: Annotated[str, AfterValidator(_profile)] = Field(
        "sweep-worker", description="instance profile of workers; `check --fix` makes it"
    )
    disk_gb: Annotated[int, Field(ge=40, le=16384)] = Field(100, description="GB of each machine's root volume")
    tags: dict[str, str] = Field({}, description="further tags of machines and volumes, for the bill")
    prices: dict[InstanceType, Price] = Field(
        {}, description="dollars an hour by instance type, e.g. {g5.xlarge: {on_demand: 1.01, spot: 0.45}}"
    )
    ray: dict[str, Any] = Field({}, description="merged last into the Ray launcher's configuration")

    @model_validator(mode="after")
    def _zones_are_of_the_region(self) -> Aws:
        wrong = [zone for zone in self.zones if zone != "auto" and not zone.startswith(self.region)]
        if self.zones != "auto" and (wrong or not self.zones):
            raise ValueError(f"zones must be auto or zones of {self.region}, e.g. [{self.region}a, {self.region}b]")
        return self


PROVIDERS: dict[str, type[Section]] = {"local": Local, "aws": Aws}


def _provider(value: Any) -> Any:
    """Name of the provider that a mapping of the YAML, or a section, is for."""
    if isinstance(value, Mapping):
        return value.get("provider", "local")
    return getattr(value, "provider", None)


Cluster = Annotated[Annotated[Local, Tag("local")] | Annotated[Aws, Tag("aws")], Discriminator(_provider)]
