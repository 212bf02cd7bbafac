"""`gpus: auto` on a workstation: busy GPUs are not used, and the plan names them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from sweep.engine.tuner_process import _environment
from sweep.errors import UserError
from sweep.plan.platform import Platform
from sweep.providers.local import list_gpus
from sweep.providers.registry import provider_of
from sweep.spec.load import resolve
from sweep.spec.sweep import Sweep
from tests.support.nvidia_smi import NvidiaSmi, uuid
from tests.support.sweeps import platform, sweep, write_config

A6000, T4 = ("NVIDIA RTX A6000", 8.6), ("Tesla T4", 7.5)
STUDY: dict[str, Any] = {
    "name": "s", "kind": "error_bars", "datasets": ["digits"], "abnormal": [0], "seeds": 1, "detectors": ["ganomaly"],
}  # fmt: skip


def workstation(wanted: object = "auto", **trial: Any) -> Sweep:
    cluster = {"provider": "local", "gpus": wanted}
    return resolve({"storage": "./r", "cluster": cluster, "trial": trial, "sweep": {"studies": [STUDY]}})


@pytest.fixture
def smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NvidiaSmi:
    return NvidiaSmi(tmp_path, monkeypatch)


@pytest.mark.parametrize(
    ("use", "reason"),
    [
        ({"processes": {1: 4711}}, "process 4711 on it"),
        ({"mib": {1: "60000"}}, "60000 of 80000 MiB taken"),
        ({"percent": {1: "97"}}, "97 % busy"),
    ],
)
def test_a_busy_card_is_left_alone_and_the_plan_says_so(smi: NvidiaSmi, use: dict[str, Any], reason: str) -> None:
    smi.lists(A6000, A6000, A6000, **use)
    found = platform(workstation(cpus=1))
    assert found.visible_gpus == (uuid(0), uuid(2))
    assert found.caution == f"cluster.gpus: GPU 1 (NVIDIA RTX A6000) is not used: {reason}"
    assert (found.device, found.gpus) == ("NVIDIA RTX A6000", 1.0)


def test_the_pictures_of_a_desktop_are_no_use_and_a_card_that_says_nothing_is_free(smi: NvidiaSmi) -> None:
    smi.lists(A6000, A6000, mib={0: "900", 1: "[N/A]"}, percent={0: "4", 1: "[N/A]"})
    assert [gpu.use for gpu in list_gpus()] == ["", ""]
    found = platform(workstation())
    assert (found.visible_gpus, found.caution) == ((), "")


def test_all_cards_busy_is_a_plan_and_no_launch(smi: NvidiaSmi) -> None:
    smi.lists(A6000, A6000, processes={0: 10, 1: 11})
    found = platform(workstation())
    assert found.device == "NVIDIA RTX A6000", "the CPU is never used silently, because results would have other keys"
    assert "every GPU is busy" in found.caution
    with pytest.raises(UserError, match=r"GPU 0 \(NVIDIA RTX A6000\): process 10 on it; .*--set cluster.gpus=2"):
        provider_of(workstation()).check_launch()
    provider_of(workstation(2)).check_launch()
    provider_of(workstation(gpus=0)).check_launch()


def test_a_number_of_cards_takes_free_ones_first_and_then_shares(smi: NvidiaSmi) -> None:
    smi.lists(A6000, A6000, A6000, processes={0: 10, 1: 11})
    assert platform(workstation(1)).visible_gpus == (uuid(2),)
    assert platform(workstation(2)).visible_gpus == (uuid(2), uuid(0))
    assert platform(workstation(3)).visible_gpus == ()


def test_use_never_changes_which_kind_of_card_is_in_the_keys(smi: NvidiaSmi) -> None:
    smi.lists(A6000, T4, processes={0: 10})
    assert platform(workstation(1)).device == "NVIDIA RTX A6000"
    with pytest.raises(UserError, match="different GPUs"):
        platform(workstation())


@pytest.mark.parametrize(("visible", "chosen"), [("2,1", ("2",)), (f"{uuid(0)},GPU-1", (uuid(0),)), ("0,2", ())])
def test_whoever_names_cards_is_obeyed_and_of_those_the_busy_are_left_alone(
    smi: NvidiaSmi, monkeypatch: pytest.MonkeyPatch, visible: str, chosen: tuple[str, ...]
) -> None:
    smi.lists(A6000, A6000, A6000, processes={1: 4711})
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert platform(workstation()).visible_gpus == chosen


def test_a_slice_of_a_card_is_what_it_is_a_slice_of(smi: NvidiaSmi, monkeypatch: pytest.MonkeyPatch) -> None:
    smi.lists(A6000, processes={0: 4711})
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-1234")
    assert [(gpu.name, gpu.visible, gpu.use) for gpu in list_gpus()] == [("NVIDIA RTX A6000", "MIG-1234", "")]


def test_no_card_is_seen_where_there_is_none_or_none_is_visible(
    smi: NvidiaSmi, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert list_gpus() == []
    smi.lists(A6000)
    assert len(list_gpus()) == 1
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert list_gpus() == []


def test_what_a_launch_ran_on_survives_json(smi: NvidiaSmi) -> None:
    smi.lists(A6000, A6000, processes={0: 1})
    found = platform(workstation())
    assert found.visible_gpus
    assert Platform.from_dict(json.loads(json.dumps(dataclasses.asdict(found)))) == found


def test_the_cards_that_are_left_are_all_that_ray_and_trials_see(smi: NvidiaSmi) -> None:
    smi.lists(A6000, A6000, processes={0: 1})
    assert _environment(Path("/scratch"), platform(workstation()).visible_gpus)["CUDA_VISIBLE_DEVICES"] == uuid(1)
    smi.lists(A6000, A6000)
    assert "CUDA_VISIBLE_DEVICES" not in _environment(Path("/scratch"), platform(workstation()).visible_gpus)


def test_the_command_line_names_the_cards_that_it_leaves_alone(smi: NvidiaSmi, tmp_path: Path) -> None:
    smi.lists(A6000, A6000, processes={0: 4711})
    config = write_config(tmp_path, [{"detectors": ["constant"], "abnormal": [0]}])
    for verb in ("plan", "check"):
        run = sweep(verb, config)
        assert run.returncode == 0, run.stderr
        assert "GPU 0 (NVIDIA RTX A6000) is not used: process 4711 on it" in " ".join(run.stdout.split())
    smi.lists(A6000, processes={0: 4711})
    run = sweep("launch", config, "-y")
    assert run.returncode == 1 and "auto uses free GPUs only" in run.stderr
    assert sweep("check", config).returncode == 1
