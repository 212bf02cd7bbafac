"""Trials on the machines of a YAML: slots at full size, device and precision, and all problems at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweep.errors import UserError
from sweep.plan.platform import Host, fit, trials_per_gpu
from sweep.providers.finding import Finding, check_shared_folder, is_network, kind
from sweep.spec.load import load, resolve
from sweep.spec.sweep import Sweep
from tests.support.aws_sweeps import STUDY
from tests.support.sweeps import platform

ROOT = Path(__file__).parents[2]
GPU: dict[str, Any] = {"gpus": 4, "gpu": "NVIDIA A100", "capability": 8.0}
ONPREM: dict[str, Any] = {"provider": "onprem", "hosts": ["a", "b", "c"], "cpus": 8}
SLURM: dict[str, Any] = {"provider": "slurm", "nodes": 3, "cpus": 8}


def on(cluster: dict[str, Any], **trial: Any) -> Sweep:
    return resolve(
        {"storage": "/nfs/x", "cluster": cluster, "trial": trial, "sweep": {"name": "n", "studies": [STUDY]}}
    )


@pytest.mark.parametrize(
    ("cluster", "trial", "slots"),
    [
        (ONPREM, {}, 16),  # the head runs no trials
        ({**ONPREM, "hosts": ["a"]}, {}, 8),  # a single host runs trials, too
        (ONPREM, {"cpus": 3}, 4),  # two on each of two hosts, because no trial spans two hosts
        ({**ONPREM, **GPU}, {}, 8),
        ({**ONPREM, **GPU}, {"gpus": 0.5}, 16),
        ({**ONPREM, **GPU}, {"cpus": 4}, 4),
        (SLURM, {}, 24),
        ({**SLURM, **GPU}, {"gpus": 1, "cpus": 2}, 12),
        ({**SLURM, **GPU}, {"gpus": 0}, 24),
    ],
)
def test_slots_are_those_of_all_machines_at_full_scale(
    cluster: dict[str, Any], trial: dict[str, Any], slots: int
) -> None:
    found = platform(on(cluster, **trial))
    assert found.slots == slots
    on_gpus = "gpus" in cluster and trial.get("gpus") != 0
    assert found.device == ("NVIDIA A100" if on_gpus else "cpu")
    assert found.numerics.precision == ("bf16" if on_gpus else "float32")


@pytest.mark.parametrize(
    ("share", "slots", "gpus"),
    [(1.0, 8, 8), (0.6, 8, 8), (0.51, 8, 8), (0.5, 16, 8), (0.34, 16, 8), (0.3333, 24, 8), (0.1, 64, 7)],
)
def test_no_trial_lies_across_two_gpus(share: float, slots: int, gpus: int) -> None:
    found = platform(on({**ONPREM, **GPU, "hosts": ["a"], "cpus": 64, "gpus": 8}, gpus=share))
    assert (found.slots, found.whole_gpus) == (slots, gpus)


@given(st.integers(1, 64), st.integers(1, 16), st.integers(1, 8), st.floats(0.05, 1))
def test_slots_use_neither_more_cores_nor_more_gpus_than_there_are(
    cores: int, gpus: int, cpus: int, share: float
) -> None:
    slots = Host(cores, gpus).slots(cpus, share)
    assert slots * cpus <= cores
    assert -(-slots // trials_per_gpu(share)) <= gpus
    assert trials_per_gpu(share) * share <= 1 + 1e-4


@pytest.mark.parametrize(
    ("cluster", "trial", "message"),
    [
        (ONPREM, {"gpus": 1}, "trial.gpus: the cluster offers no GPU"),
        (ONPREM, {"cpus": 9}, "trial.cpus: a trial needs 9 cores; a machine offers 8 at most"),
        ({**SLURM, **GPU}, {"cpus": 9}, "trial.cpus: a trial needs 9 cores; a machine offers 8 at most"),
        ({**SLURM, "gpus": 1, "gpu": "NVIDIA L4"}, {"precision": "tf32"}, "set cluster.capability if the GPUs have it"),
    ],
)
def test_a_trial_that_finds_no_place_is_told_which_key_to_fix(
    cluster: dict[str, Any], trial: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError) as caught:
        platform(on(cluster, **trial))
    assert message in str(caught.value)


def test_of_a_gpu_that_nobody_describes_no_units_are_expected() -> None:
    unknown = {**SLURM, "gpus": 1, "gpu": "NVIDIA X"}
    assert platform(on(unknown)).numerics.precision == "float32"
    assert "slower" in platform(on(unknown, precision="bf16")).caution


@given(
    hosts=st.lists(st.builds(Host, st.integers(1, 64), st.integers(0, 8)), min_size=1, max_size=6),
    cpus=st.integers(1, 8),
    share=st.sampled_from([0, 0.25, 0.5, 1]),
)
def test_no_machine_is_given_more_than_it_has(hosts: list[Host], cpus: int, share: float) -> None:
    sweep = on(SLURM, cpus=cpus, gpus=share)
    try:
        found = fit(sweep, hosts, "g", None)
    except UserError:
        assert all(host.cpus < cpus or (share and host.gpus < share) for host in hosts)
        return
    assert found.slots <= sum(host.cpus for host in hosts) // cpus
    assert found.slots * share <= sum(host.gpus for host in hosts) or not share


@pytest.mark.parametrize("name", ["onprem", "slurm"])
def test_the_shipped_file_is_legal_and_says_what_it_offers(name: str) -> None:
    found = platform(load(ROOT / f"clusters/{name}.yaml"))
    assert found.slots == 8 and found.gpus == 1


@pytest.mark.parametrize("name", ["local", "aws", "onprem", "slurm", "existing"])
def test_every_shipped_file_is_legal(name: str) -> None:
    assert load(ROOT / f"clusters/{name}.yaml").cluster.provider == name


def test_the_file_system_of_a_folder_is_that_of_its_deepest_mount(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    inside = tmp_path / "nfs here"
    escaped = str(inside).replace(" ", "\\040")
    mounts.write_text(f"/dev/sda / ext4 rw 0 0\nserver:/x {escaped} nfs4 rw 0 0\ntmpfs {escaped}/t tmpfs rw 0 0\n")
    assert kind(inside / "results", mounts) == "nfs4"
    assert kind(inside / "t/x", mounts) == "tmpfs"
    assert kind(tmp_path, mounts) == "ext4"
    assert kind(tmp_path, tmp_path / "none") == ""
    assert is_network("nfs4") and is_network("fuse.sshfs") and is_network("lustre") and not is_network("ext4")


def test_a_folder_of_this_machine_is_no_problem_but_a_question(tmp_path: Path) -> None:
    found = check_shared_folder("folder", tmp_path, "every node")
    assert isinstance(found, Finding) and found.state in ("unknown", "ok")
    assert "every node" in found.found + found.fix
