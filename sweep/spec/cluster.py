"""Keys of the section `cluster`, by provider: machines that run the trials, and their resources."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, ClassVar, Literal, Self, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationInfo,
    field_validator,
    model_validator,
)

from sweep.errors import shown
from sweep.spec.ray_settings import LONGEST_RAY_FOLDER

_INSTANCE_TYPE = re.compile(r"[a-z][a-z0-9-]*\.[a-z0-9-]+")
_PROFILE = re.compile(r"[A-Za-z0-9+=,.@_-]{1,128}")
_USER = r"^[a-z_][a-z0-9_-]*$"
_FOLDER = r"^[/~][\w./-]*$"
# The job puts Ray's folder into sweep-JOB there; numbers of jobs have at most eight digits.
_LONGEST_SCRATCH = LONGEST_RAY_FOLDER - len("/sweep-12345678/ray")
_WALLTIME = r"^([0-9]+-)?[0-9]{1,3}:[0-5][0-9]:[0-5][0-9]$"
_OWN_SBATCH_OPTIONS = {
    "--nodes": "nodes", "--cpus-per-task": "cpus", "--gpus-per-node": "gpus", "--partition": "partition",
    "--account": "account", "--qos": "qos", "--time": "walltime", "--signal": "signal_seconds",
    "--ntasks-per-node": "one for each node", "--ntasks": "one for each node", "--array": "one job for a sweep",
    "--job-name": "by it a job is found again", "--output": "folder", "--open-mode": "folder", "--requeue": "walltime",
    "--no-requeue": "walltime", "--chdir": "folder",
}  # fmt: skip


HOURS, DOLLARS, MANY = 100_000, 1e9, 1_000_000  # limits that no sweep reaches; greater numbers overflow somewhere


class Section(BaseModel):
    """A mapping of the YAML; an unknown key is a problem, and so is a number that is not finite, or true or false."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _numbers_are_no_truth_values(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse true and false where a number belongs: Python counts them as 1 and 0."""
        items = value if isinstance(value, list | tuple) else [value]
        if any(item is True or item is False for item in items) and not _takes_flags(cls, str(info.field_name)):
            raise ValueError(f"must not be true or false, is {shown(value)}")
        return value


@cache
def _takes_flags(section: type[BaseModel], name: str) -> bool:
    """Return True if a field may be true or false, or contains values of any kind."""
    kinds: list[Any] = [section.model_fields[name].annotation]
    for kind in kinds:
        kinds += get_args(kind)
    return bool in kinds or Any in kinds


def _instance_type(value: str) -> str:
    if not _INSTANCE_TYPE.fullmatch(value):
        raise ValueError(f"must be an instance type of EC2, e.g. g5.xlarge, is {shown(value)}")
    return value


def _image(value: str) -> str:
    if value != "auto" and not re.fullmatch(r"ami-[0-9a-f]{8,17}", value):
        raise ValueError(f"must be auto or the id of an image, e.g. ami-0123456789abcdef0, is {shown(value)}")
    return value


def _network(value: str) -> str:
    """Return an address or network as CIDR; refuse one that opens SSH to everybody."""
    if value == "auto":
        return value
    try:
        network = ipaddress.ip_network(value, strict=False)
    except ValueError:
        raise ValueError(f"must be auto, an address or a network, e.g. 203.0.113.7/32, is {shown(value)}") from None
    if network.prefixlen == 0:
        raise ValueError(f"{value} opens SSH to everybody; give your own address, e.g. 203.0.113.7/32")
    return str(network)


def _profile(value: str) -> str:
    if not _PROFILE.fullmatch(value):
        raise ValueError(f"must be letters, digits and +=,.@_-, at most 128, is {shown(value)}")
    return value


def _host(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9.:-]*[A-Za-z0-9])?", value):
        raise ValueError(f"must be an address or the name of a host, e.g. 10.0.0.7 or gpu-1, is {shown(value)}")
    return value


def _word(value: str) -> str:
    if not re.fullmatch(r"[\w.,@+-]+", value):
        raise ValueError(f"must be one word, is {shown(value)}")
    return value


def _sbatch_option(value: str) -> str:
    """Check an option as it is written after #SBATCH; refuse those that this project sets itself."""
    name = value.partition("=")[0].partition(" ")[0]
    if not re.fullmatch(r"--[a-z][a-z0-9-]*([= ][^\n#]+)?", value):
        raise ValueError(f"must be a long option of sbatch, e.g. --constraint=a100, is {shown(value)}")
    if name in _OWN_SBATCH_OPTIONS:
        raise ValueError(f"{name} is set by this project ({_OWN_SBATCH_OPTIONS[name]})")
    return value


def _dashboard(value: str) -> str:
    if not re.fullmatch(r"https?://[^\s/?#@]+(/[^\s?#]*)?", value):
        raise ValueError(f"must be the address of a Ray dashboard, e.g. http://127.0.0.1:8265, is {shown(value)}")
    return value.rstrip("/")


def _variable(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z_]\w*", value):
        raise ValueError(f"must be the name of an environment variable, is {shown(value)}")
    return value


def _walltime(value: Any) -> str:
    """Check that the walltime is text: without quotes, YAML reads 12:00:00 as a number."""
    if not isinstance(value, str) or not re.fullmatch(_WALLTIME, value):
        raise ValueError(f'must be [DAYS-]HOURS:MINUTES:SECONDS in quotes, e.g. "12:00:00", is {shown(value)}')
    return value


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


InstanceType = Annotated[str, AfterValidator(_instance_type)]


class ClusterSection(Section):
    """The section `cluster` of a YAML for one provider.

    Attributes:
        runs_here: launches run in the process of the command, on this machine.
        shares_folder: machines and this one can share a folder, so that a store in a folder is possible.
        needs_max_hours: `budget.max_hours` must be given.
        location_keys: keys that decide where `down` looks for machines.
    """

    runs_here: ClassVar[bool] = False
    shares_folder: ClassVar[bool] = True
    needs_max_hours: ClassVar[bool] = False
    location_keys: ClassVar[tuple[str, ...]] = ()

    @property
    def machine_price(self) -> float | None:
        """Price of this machine in dollars per hour, if it runs the trials and its price is known."""
        return None


class Local(ClusterSection):
    """This machine, on which Ray is started and stopped."""

    runs_here: ClassVar[bool] = True

    provider: Literal["local"] = Field("local", description="local: Ray on this machine, started and stopped")
    cpus: Literal["auto"] | Annotated[int, Field(ge=1, le=MANY)] = Field(
        "auto", description="CPU cores to use; auto: those that this process may use"
    )
    gpus: Literal["auto"] | Annotated[int, Field(ge=0, le=MANY)] = Field(
        "auto",
        description="GPUs to use; auto: those that nvidia-smi lists, within CUDA_VISIBLE_DEVICES, and that are idle",
    )
    usd_per_hour: Annotated[float, Field(ge=0, le=DOLLARS)] | None = Field(
        None, description="dollars per hour for this machine, shared by its slots, for the report's cost; none: unknown"
    )

    @property
    def machine_price(self) -> float | None:
        return self.usd_per_hour


class Price(Section):
    """Prices of a machine, in dollars per hour."""

    on_demand: Annotated[float, Field(ge=0, le=DOLLARS)] | None = Field(None, description="dollars per hour on demand")
    spot: Annotated[float, Field(ge=0, le=DOLLARS)] | None = Field(None, description="dollars per hour as spot")


class Aws(ClusterSection):
    """Machines of EC2: a head on demand, and workers as spot if there is capacity."""

    shares_folder: ClassVar[bool] = False
    needs_max_hours: ClassVar[bool] = True
    location_keys: ClassVar[tuple[str, ...]] = ("region",)

    provider: Literal["aws"] = Field(
        "aws", description="aws: machines of EC2, created for this sweep and terminated after it"
    )
    region: Annotated[str, Field(pattern=r"^[a-z]{2}(-[a-z]+)+-[0-9]+$")] = Field(
        "us-east-1", description="region of the machines and of the bucket"
    )
    zones: Literal["auto"] | tuple[str, ...] = Field(
        "auto", description="availability zones for the machines; auto: every zone with a public subnet"
    )
    head: InstanceType = Field("m6i.large", description="instance type of the head, which runs no trials")
    worker: Annotated[tuple[InstanceType, ...], BeforeValidator(_as_list), Field(min_length=1)] = Field(
        ("g5.xlarge", "g6.xlarge"), description="instance types of workers; the first with capacity is used"
    )
    spot: bool = Field(True, description="workers as spot, or on demand if no zone has spot capacity")
    max_workers: Annotated[int, Field(ge=1, le=MANY)] = Field(
        8, description="most workers at once; only as many are created as budget.max_hours requires"
    )
    idle_minutes: Annotated[float, Field(gt=0, le=HOURS)] = Field(
        5.0, description="minutes without trials after which a worker ends"
    )
    image: Annotated[str, AfterValidator(_image)] = Field(
        "auto", description="machine image; auto: the newest deep learning base image of AWS; `check` prints its id"
    )
    environment: Annotated[str, Field(pattern=r"^/[\w./-]+$")] | None = Field(
        None,
        description="folder of a ready Python environment in the image; none: a pinned one is made on each machine",
    )
    ssh_user: Annotated[str, Field(pattern=_USER)] = Field("ubuntu", description="user of the image")
    ssh_from: Annotated[str, AfterValidator(_network)] = Field(
        "auto", description="network that may connect by SSH, e.g. 203.0.113.7/32; auto: this machine's public address"
    )
    head_profile: Annotated[str, AfterValidator(_profile)] = Field(
        "auto",
        description="instance profile of the head; auto: one for each storage; `check --fix` makes it",
    )
    worker_profile: Annotated[str, AfterValidator(_profile)] = Field(
        "auto",
        description="instance profile of workers; auto: one for each storage; `check --fix` makes it",
    )
    disk_gb: Annotated[int, Field(ge=40, le=16384)] = Field(100, description="GB of each machine's root volume")
    tags: dict[str, str] = Field({}, description="more tags of machines and volumes, for the bill")
    prices: dict[InstanceType, Price] = Field(
        {}, description="dollars per hour by instance type, e.g. {g5.xlarge: {on_demand: 1.01, spot: 0.45}}"
    )
    ray: dict[str, Any] = Field({}, description="keys to merge last into the Ray launcher's configuration")

    @model_validator(mode="after")
    def _zones_are_of_the_region(self) -> Aws:
        wrong = [zone for zone in self.zones if zone != "auto" and not zone.startswith(self.region)]
        if self.zones != "auto" and (wrong or not self.zones):
            raise ValueError(f"zones must be auto or zones of {self.region}, e.g. [{self.region}a, {self.region}b]")
        return self


class Offered(ClusterSection):
    """Resources of machines that the file must describe, because a plan cannot look at the machines."""

    gpu: str = Field(
        "", description="name of the GPUs as nvidia-smi prints it, e.g. NVIDIA A100-SXM4-80GB; part of a trial's key"
    )
    capability: Annotated[float, Field(ge=5, le=20)] | None = Field(
        None, description="CUDA compute capability of the GPUs, e.g. 8.0; none: unknown, precision auto is float32"
    )


class EachOffers(Offered):
    """Resources of each machine, when all machines are the same."""

    cpus: Annotated[int, Field(ge=1, le=MANY)] = Field(description="CPU cores of each machine for trials")
    gpus: Annotated[int, Field(ge=0, le=MANY)] = Field(0, description="GPUs of each machine for trials")

    @model_validator(mode="after")
    def _gpus_have_a_name(self) -> Self:
        if self.gpus and not self.gpu:
            raise ValueError("gpus needs gpu, the name that `nvidia-smi --query-gpu=name` prints there")
        return self


class OnPrem(EachOffers):
    """Your own hosts over SSH: Ray is started on them and stopped, and the first host is the head."""

    provider: Literal["onprem"] = Field("onprem", description="onprem: your own hosts, over SSH")
    hosts: Annotated[tuple[Annotated[str, AfterValidator(_host)], ...], Field(min_length=1)] = Field(
        description="addresses or names by which the hosts reach each other; the first is the head, which runs no "
        "trials unless it is the only host"
    )
    ssh_user: Annotated[str, Field(pattern=_USER)] | None = Field(
        None, description="user on all hosts; none: the user who launches"
    )
    ssh_key: Annotated[str, Field(pattern=r"^[/~][^\n]*$")] | None = Field(
        None,
        description="private key of that user, which the head also uses for the other hosts until it is taken down; "
        "none: keys that SSH finds by itself, here and on the head",
    )
    environment: Annotated[str, Field(pattern=_FOLDER)] | None = Field(
        None,
        description="folder of a ready Python environment, the same on all hosts; none: a pinned one is made on each",
    )
    ray: dict[str, Any] = Field({}, description="keys to merge last into the Ray launcher's configuration")

    @model_validator(mode="after")
    def _hosts_differ(self) -> OnPrem:
        twice = sorted({host for host in self.hosts if self.hosts.count(host) > 1})
        if twice:
            raise ValueError(f"hosts: each once; more than once: {', '.join(twice)}")
        return self

    @property
    def offering(self) -> int:
        """Number of hosts that run trials."""
        return max(1, len(self.hosts) - 1)


class Slurm(EachOffers):
    """One job of Slurm, submitted on a machine with `sbatch`: all its nodes run trials, the first also the driver."""

    provider: Literal["slurm"] = Field("slurm", description="slurm: one job, which requeues itself at its walltime")
    nodes: Annotated[int, Field(ge=1, le=MANY)] = Field(1, description="nodes of the job")
    partition: Annotated[str, AfterValidator(_word)] | None = Field(
        None, description="partition; none: Slurm's default"
    )
    account: Annotated[str, AfterValidator(_word)] | None = Field(None, description="account; none: your default")
    qos: Annotated[str, AfterValidator(_word)] | None = Field(None, description="quality of service; none: the default")
    walltime: Annotated[str, BeforeValidator(_walltime)] = Field(
        "04:00:00",
        description="time limit of one run of the job, [DAYS-]HOURS:MINUTES:SECONDS; the sweep goes on in the next run",
    )
    signal_seconds: Annotated[int, Field(ge=30, le=3600)] = Field(
        180, description="seconds before the walltime at which trials write their resume state and the job requeues"
    )
    options: tuple[Annotated[str, AfterValidator(_sbatch_option)], ...] = Field(
        (), description="more options of sbatch, e.g. [--constraint=a100, --exclusive, --mem=64G]"
    )
    environment: Literal["auto"] | Annotated[str, Field(pattern=_FOLDER)] = Field(
        "auto", description="folder of a Python environment that all nodes see; auto: the one that runs this command"
    )
    before: tuple[str, ...] = Field((), description="commands that every node runs first, e.g. [module load cuda/13.0]")
    folder: Annotated[str, Field(pattern=_FOLDER)] = Field(
        "~/anomaly-sweep", description="folder that all nodes see, for the code, the log and the exit code of the job"
    )
    scratch: Annotated[str, Field(pattern=rf"^/[\w./-]{{0,{_LONGEST_SCRATCH - 1}}}$")] = Field(
        "/tmp",  # noqa: S108  (the job makes a private folder in it)
        description=f"folder on each node's own disk, at most {_LONGEST_SCRATCH} characters; a private folder is made "
        "there and removed",
    )

    @model_validator(mode="after")
    def _signal_is_before_the_walltime(self) -> Slurm:
        if self.seconds <= 2 * self.signal_seconds:
            raise ValueError(f"walltime: {self.walltime} must be more than twice signal_seconds, {self.signal_seconds}")
        return self

    @property
    def seconds(self) -> int:
        """Walltime in seconds."""
        days, _, clock = self.walltime.rpartition("-")
        hours, minutes, seconds = map(int, clock.split(":"))
        return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds


class Existing(Offered):
    """A Ray cluster that already runs: the sweep is a job of its Jobs API, and only that job is ever stopped.

    If the cluster requires a token, Ray's own settings provide it: RAY_AUTH_TOKEN, or the file RAY_AUTH_TOKEN_PATH.
    """

    provider: Literal["existing"] = Field("existing", description="existing: a Ray cluster that already runs")
    address: Annotated[str, AfterValidator(_dashboard)] = Field(
        description="address of its dashboard, e.g. http://127.0.0.1:8265"
    )
    python: Annotated[str, Field(pattern=r"^[\w./-]+$")] = Field(
        "python",
        description="Python interpreter on the cluster that has this project's packages; preferably an absolute path",
    )
    cpus: Literal["auto"] | Annotated[int, Field(ge=1, le=MANY)] = Field(
        "auto",
        description="total CPU cores for trials, at full size if the cluster scales; auto: those of its present nodes",
    )
    gpus: Literal["auto"] | Annotated[int, Field(ge=0, le=MANY)] = Field(
        "auto",
        description="total GPUs for trials, at full size if the cluster scales; auto: those of its present nodes",
    )
    environment_variables: dict[Annotated[str, AfterValidator(_variable)], str] = Field(
        {},
        description="variables of the job, e.g. {AWS_DEFAULT_REGION: eu-west-1}; no secrets: the dashboard shows them",
    )

    @model_validator(mode="after")
    def _gpus_have_a_name(self) -> Existing:
        if self.gpus not in ("auto", 0) and not self.gpu:
            raise ValueError("gpus needs gpu, the name that `nvidia-smi --query-gpu=name` prints there")
        return self


PROVIDERS: dict[str, type[ClusterSection]] = {
    "local": Local, "aws": Aws, "onprem": OnPrem, "slurm": Slurm, "existing": Existing
}  # fmt: skip


def _provider(value: Any) -> Any:
    """Return the name of the provider of a mapping in the YAML, or of a section."""
    if isinstance(value, Mapping):
        return value.get("provider", "local")
    return getattr(value, "provider", None)


Cluster = Annotated[
    Annotated[Local, Tag("local")]
    | Annotated[Aws, Tag("aws")]
    | Annotated[OnPrem, Tag("onprem")]
    | Annotated[Slurm, Tag("slurm")]
    | Annotated[Existing, Tag("existing")],
    Discriminator(_provider),
]
