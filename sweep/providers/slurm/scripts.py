"""The two generated scripts of a sweep's job: the job's script for sbatch, and the script that each node runs."""

from __future__ import annotations

import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from sweep.providers.base import section_of
from sweep.providers.local_files import cluster_name
from sweep.providers.ray_config import OBJECT_STORE, export_line
from sweep.signals import TERM_SUSPENDS
from sweep.spec.cluster import Slurm
from sweep.spec.sweep import Sweep

TEMPLATES = Path(__file__).parent
LAST_CODE = 3  # greatest exit code of a sweep that has ended; a greater one means that it was stopped


@dataclass(frozen=True)
class Folder:
    """Folder of one sweep, on a file system that all nodes share.

    Attributes:
        path: absolute path.
    """

    path: Path

    @property
    def code(self) -> Path:
        """Folder of the code that was copied."""
        return self.path / "code"

    @property
    def token(self) -> Path:
        """File with the secret of the job's Ray."""
        return self.path / "auth_token"

    def run(self, number: int) -> Path:
        """Return the folder for scripts, address and exit code of one launch."""
        return self.path / f"launch-{number}"

    @property
    def log(self) -> str:
        """Pattern of the file for the job's output, appended run after run; %j is the job's number."""
        return str(self.path / "job-%j.log")


def folder_of(sweep: Sweep) -> Folder:
    """Return the folder of a sweep."""
    cluster = section_of(sweep, Slurm)
    return Folder(Path(cluster.folder).expanduser() / cluster_name(sweep))


def environment_of(cluster: Slurm) -> Path:
    """Return the folder of the Python environment that all nodes share."""
    return Path(sys.prefix) if cluster.environment == "auto" else Path(cluster.environment).expanduser()


def job(sweep: Sweep, number: int) -> str:
    """Return the script for sbatch.

    Args:
        sweep: sweep that is run.
        number: number of the launch.
    """
    cluster, folder = section_of(sweep, Slurm), folder_of(sweep)
    options = [f"#SBATCH {option}" for option in _options(cluster, sweep, folder, number)]
    return _fill(
        "job.sh",
        OPTIONS="\n".join(options),
        RUN=shlex.quote(str(folder.run(number))),
        CPUS=str(cluster.cpus),
        LAST_CODE=str(LAST_CODE),
        SCRATCH=cluster.scratch,
    )


def node(sweep: Sweep, number: int) -> str:
    """Return the script that every node of the job runs; the arguments are those of `job`."""
    cluster, folder = section_of(sweep, Slurm), folder_of(sweep)
    module = "sweep.launch.head.supervisor"
    supervisor = ["python", "-m", module, sweep.storage, sweep.name, str(number), "--supervised"]
    return _fill(
        "node.sh",
        BEFORE="\n".join(cluster.before),
        RUN=shlex.quote(str(folder.run(number))),
        SCRATCH=shlex.quote(cluster.scratch),
        CODE=shlex.quote(str(folder.code)),
        EXPORTS=export_line(
            PATH=f"{shlex.quote(str(environment_of(cluster)))}/bin:$PATH",
            PYTHONPATH=shlex.quote(str(folder.code)),
            RAY_AUTH_TOKEN_PATH=shlex.quote(str(folder.token)),
            TMPDIR="$scratch",
            **{TERM_SUSPENDS: "1"},
            XDG_CACHE_HOME="$scratch/cache",
        ),
        CPUS=str(cluster.cpus),
        GPUS=str(cluster.gpus),
        OBJECT_STORE=str(OBJECT_STORE),
        SUPERVISOR=f"{shlex.join(supervisor)} $scratch/supervised",
    )


def scripts_text(sweep: Sweep) -> str:
    """Return both scripts as text, as for a first launch."""
    return f"{job(sweep, 1)}\n# {folder_of(sweep).run(1) / 'node.sh'}:\n{node(sweep, 1)}"


def _options(cluster: Slurm, sweep: Sweep, folder: Folder, number: int) -> list[str]:
    """Return the options of sbatch; the user's own are the last."""
    wanted = {
        "job-name": cluster_name(sweep),
        "comment": f"launch-{number}",
        "nodes": str(cluster.nodes),
        "ntasks-per-node": "1",
        "cpus-per-task": str(cluster.cpus),
        "gpus-per-node": str(cluster.gpus) if cluster.gpus else None,
        "partition": cluster.partition,
        "account": cluster.account,
        "qos": cluster.qos,
        "time": cluster.walltime,
        "signal": f"B:USR1@{cluster.signal_seconds}",  # only to the job's script
        "open-mode": "append",  # all runs of the job share one log
        "output": folder.log,
        "chdir": str(folder.path),
    }
    options = [f"--{name}={value}" for name, value in wanted.items() if value is not None]
    return [*options, "--requeue", *cluster.options]


def _fill(name: str, **values: str) -> str:
    """Return a template with its fields filled; a value may contain anything, also the name of a field."""
    return re.sub(r"\{\{([A-Z_]+)\}\}", lambda found: values[found[1]], (TEMPLATES / name).read_text())
