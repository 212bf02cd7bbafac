"""The keys of `cluster:`, by provider: where trials run, and on what."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, model_validator

_INSTANCE_TYPE = re.compile(r"[a-z][a-z0-9-]*\.[a-z0-9-]+")
_PROFILE = re.compile(r"[A-Za-z0-9+=,.@_-]{1,128}")
_USER = r"^[a-z_][a-z0-9_-]*$"
_FOLDER = r"^[/~][\w./-]*$"
_WALLTIME = r"^([0-9]+-)?[0-9]{1,3}:[0-5][0-9]:[0-5][0-9]$"
_OWN_SBATCH_OPTIONS = {
    "--nodes": "nodes", "--cpus-per-task": "cpus", "--gpus-per-node": "gpus", "--partition": "partition",
    "--account": "account", "--qos": "qos", "--time": "walltime", "--signal": "signal_seconds",
    "--ntasks-per-node": "one for each node", "--ntasks": "one for each node", "--array": "one job for a sweep",
    "--job-name": "by it a job is found again", "--output": "folder", "--open-mode": "folder", "--requeue": "walltime",
    "--no-requeue": "walltime", "--chdir": "folder",
}  # fmt: skip


class Section(BaseModel):
    """A mapping of the YAML; unknown keys are problems."""

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


def _host(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9.:-]*[A-Za-z0-9])?", value):
        raise ValueError(f"must be an address or the name of a host, e.g. 10.0.0.7 or gpu-1.example.org, is {value!r}")
    return value


def _word(value: str) -> str:
    if not re.fullmatch(r"[\w.,@+-]+", value):
        raise ValueError(f"must be one word, is {value!r}")
    return value


def _sbatch_option(value: str) -> str:
    """An option as it stands after #SBATCH; those that this project sets itself are refused."""
    name = value.partition("=")[0].partition(" ")[0]
    if not re.fullmatch(r"--[a-z][a-z0-9-]*([= ][^\n#]+)?", value):
        raise ValueError(f"must be a long option of sbatch, e.g. --constraint=a100, is {value!r}")
    if name in _OWN_SBATCH_OPTIONS:
        raise ValueError(f"{name} is set by this project ({_OWN_SBATCH_OPTIONS[name]})")
    return value


def _dashboard(value: str) -> str:
    if not re.fullmatch(r"https?://[^\s/?#@]+(/[^\s?#]*)?", value):
        raise ValueError(f"must be the address of a Ray dashboard, e.g. http://127.0.0.1:8265, is {value!r}")
    return value.rstrip("/")


def _variable(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z_]\w*", value):
        raise ValueError(f"must be the name of an environment variable, is {value!r}")
    return value


def _walltime(value: Any) -> str:
    """Text: to YAML, 12:00:00 without quotes is a number."""
    if not isinstance(value, str) or not re.fullmatch(_WALLTIME, value):
        raise ValueError(f'must be [DAYS-]HOURS:MINUTES:SECONDS in quotes, e.g. "12:00:00", is {value!r}')
    return value


def _as_list(value: Any) -> Any:
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
    worker: Annotated[tuple[InstanceType, ...], BeforeValidator(_as_list), Field(min_length=1)] = Field(
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
    ssh_user: Annotated[str, Field(pattern=_USER)] = Field("ubuntu", description="user of the image")
    ssh_from: Annotated[str, AfterValidator(_network)] = Field(
        "auto", description="network that may reach SSH, e.g. 203.0.113.7/32; auto: this machine's public address"
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


class Offered(Section):
    """What machines offer to trials, said in the file, since a plan cannot look at them."""

    gpu: str = Field(
        "", description="name of the GPUs as nvidia-smi prints it, e.g. NVIDIA A100-SXM4-80GB; part of a trial's key"
    )
    capability: Annotated[float, Field(ge=5, le=20)] | None = Field(
        None, description="CUDA compute capability of the GPUs, e.g. 8.0; none: unknown, precision auto is float32"
    )


class EachOffers(Offered):
    """The same of machines that are all alike."""

    cpus: Annotated[int, Field(ge=1)] = Field(description="CPU cores of each machine for trials")
    gpus: Annotated[int, Field(ge=0)] = Field(0, description="GPUs of each machine for trials")

    @model_validator(mode="after")
    def _gpus_have_a_name(self) -> Self:
        if self.gpus and not self.gpu:
            raise ValueError("gpus needs gpu, the name that `nvidia-smi --query-gpu=name` prints there")
        return self


class OnPrem(EachOffers):
    """Hosts of your own over SSH: Ray is started on them and stopped, the first is the head."""

    provider: Literal["onprem"] = Field("onprem", description="onprem: hosts of your own, over SSH")
    hosts: Annotated[tuple[Annotated[str, AfterValidator(_host)], ...], Field(min_length=1)] = Field(
        description="addresses or names by which hosts reach one another; the first is the head, which runs no trials "
        "unless it is the only one"
    )
    ssh_user: Annotated[str, Field(pattern=_USER)] | None = Field(
        None, description="user on all hosts; none: the name of whoever launches"
    )
    ssh_key: Annotated[str, Field(pattern=r"^[/~][^\n]*$")] | None = Field(
        None,
        description="private key of that user, also for the head to reach the others, until it is taken down; none: "
        "what SSH finds by itself, here and on the head",
    )
    environment: Annotated[str, Field(pattern=_FOLDER)] | None = Field(
        None, description="folder of a ready Python environment, the same on all hosts; none: made on each, pinned"
    )
    ray: dict[str, Any] = Field({}, description="merged last into the Ray launcher's configuration")

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
    """One job of Slurm, submitted where `sbatch` is: all its nodes run trials, the first the driver, too."""

    provider: Literal["slurm"] = Field("slurm", description="slurm: one job, which requeues itself at its walltime")
    nodes: Annotated[int, Field(ge=1)] = Field(1, description="nodes of the job")
    partition: Annotated[str, AfterValidator(_word)] | None = Field(None, description="none: Slurm's default")
    account: Annotated[str, AfterValidator(_word)] | None = Field(None, description="none: your default")
    qos: Annotated[str, AfterValidator(_word)] | None = Field(None, description="quality of service; none: the default")
    walltime: Annotated[str, BeforeValidator(_walltime)] = Field(
        "04:00:00", description="of one run of the job, [DAYS-]HOURS:MINUTES:SECONDS; it goes on in a further one"
    )
    signal_seconds: Annotated[int, Field(ge=30, le=3600)] = Field(
        180, description="seconds before the walltime at which trials write their resume state and the job requeues"
    )
    options: tuple[Annotated[str, AfterValidator(_sbatch_option)], ...] = Field(
        (), description="further options of sbatch, e.g. [--constraint=a100, --exclusive, --mem=64G]"
    )
    environment: Literal["auto"] | Annotated[str, Field(pattern=_FOLDER)] = Field(
        "auto", description="folder of a Python environment that all nodes see; auto: the one that runs this command"
    )
    before: tuple[str, ...] = Field(
        (), description="commands of every node before all else, e.g. [module load cuda/13.0]"
    )
    folder: Annotated[str, Field(pattern=_FOLDER)] = Field(
        "~/anomaly-sweep", description="folder that all nodes see, for the code, the log and the exit code of the job"
    )
    scratch: Annotated[str, Field(pattern=r"^/[\w./-]{0,29}$")] = Field(
        "/tmp",  # noqa: S108  (the job makes a private folder in it)
        description="folder of each node's own disk, at most 30 characters, in which a private one is made and removed",
    )

    @model_validator(mode="after")
    def _signal_is_before_the_walltime(self) -> Slurm:
        if self.seconds <= 2 * self.signal_seconds:
            raise ValueError(f"walltime: {self.walltime} must be more than twice signal_seconds, {self.signal_seconds}")
        return self

    @property
    def seconds(self) -> int:
        """Of the walltime."""
        days, _, clock = self.walltime.rpartition("-")
        hours, minutes, seconds = map(int, clock.split(":"))
        return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds


class Existing(Offered):
    """A Ray cluster that runs already: the sweep is a job of its Jobs API, and nothing of it is stopped but that job.

    A secret that the cluster asks for is read where Ray reads it: RAY_AUTH_TOKEN, or the file RAY_AUTH_TOKEN_PATH.
    """

    provider: Literal["existing"] = Field("existing", description="existing: a Ray cluster that runs already")
    address: Annotated[str, AfterValidator(_dashboard)] = Field(
        description="of its dashboard, e.g. http://127.0.0.1:8265"
    )
    python: Annotated[str, Field(pattern=r"^[\w./-]+$")] = Field(
        "python", description="interpreter on the cluster, which has this project's packages; best an absolute path"
    )
    cpus: Literal["auto"] | Annotated[int, Field(ge=1)] = Field(
        "auto",
        description="CPU cores for trials in all, at full scale where the cluster grows; auto: those of its nodes now",
    )
    gpus: Literal["auto"] | Annotated[int, Field(ge=0)] = Field("auto", description="GPUs for trials in all, likewise")
    environment_variables: dict[Annotated[str, AfterValidator(_variable)], str] = Field(
        {}, description="for the job, e.g. {AWS_DEFAULT_REGION: eu-west-1}; no secrets, the dashboard shows them"
    )

    @model_validator(mode="after")
    def _gpus_have_a_name(self) -> Existing:
        if self.gpus not in ("auto", 0) and not self.gpu:
            raise ValueError("gpus needs gpu, the name that `nvidia-smi --query-gpu=name` prints there")
        return self


PROVIDERS: dict[str, type[Section]] = {
    "local": Local, "aws": Aws, "onprem": OnPrem, "slurm": Slurm, "existing": Existing
}  # fmt: skip
SHARED_NOTHING = ("aws",)  # providers whose machines share no folder


def _provider(value: Any) -> Any:
    """Name of the provider that a mapping of the YAML, or a section, is for."""
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
