"""`precision: auto` depends on the device, and is decided before any trial runs."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from data.storage import shards
from sweep.errors import UserError
from sweep.plan.expand import expand
from sweep.plan.platform import Platform, cpu_multiplies_bf16, resolve_precision
from sweep.spec.load import resolve
from sweep.spec.sweep import Sweep
from sweep.spec.trial import Numerics
from sweep.store import open_store
from tests.support.nvidia_smi import NvidiaSmi
from tests.support.sweeps import platform
from tests.trial.test_run import finish, spec_of, stored

STUDY: dict[str, Any] = {
    "name": "s", "kind": "error_bars", "datasets": ["digits"], "abnormal": [0], "seeds": 1,
    "detectors": ["ganomaly", "knn"], "variants": ["repo_head", "repo_2018", "paper", "untrained"],
}  # fmt: skip
PRECISIONS = ["float32", "tf32", "bf16"]


def asking(precision: str, **trial: Any) -> Sweep:
    return resolve({"storage": "./r", "trial": {"precision": precision, **trial}, "sweep": {"studies": [STUDY]}})


@pytest.fixture
def cpuinfo(tmp_path: Path) -> Path:
    return tmp_path / "cpuinfo"


@pytest.mark.parametrize(
    ("flags", "most", "found"),
    [
        ("fpu avx2 avx512f avx512_vnni", None, False),
        ("fpu avx512f avx512_bf16", None, True),
        ("fpu avx512f avx512_bf16 amx_bf16 amx_tile", None, True),
        ("fpu avx512f avx512_bf16 amx_bf16", "avx512_core_amx", True),
        ("fpu avx512f avx512_bf16 amx_bf16", "ALL", True),
        ("fpu avx512f avx512_bf16 amx_bf16", "AVX512_CORE_VNNI", False),
        ("fpu avx512f avx512_bf16 amx_bf16", "AVX2", False),
        ("fpu avx2 avx512f", "AVX512_CORE_BF16", False),
    ],
)
def test_a_cpu_multiplies_bf16_if_it_has_the_instructions_and_may_use_them(
    flags: str, most: str | None, found: bool, cpuinfo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    if most is not None:
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", most)
    cpuinfo.write_text(f"processor\t: 0\nmodel name\t: Some avx512_bf16\nflags\t\t: {flags}\n\nprocessor\t: 1\n")
    assert cpu_multiplies_bf16(cpuinfo) == found


def test_of_an_unknown_cpu_nothing_is_expected(cpuinfo: Path) -> None:
    assert not cpu_multiplies_bf16(cpuinfo)
    cpuinfo.write_text("Features\t: fp asimd bf16\n")
    assert not cpu_multiplies_bf16(cpuinfo)


@pytest.mark.parametrize(("capability", "found"), [(7.5, "float32"), (8.0, "bf16"), (9.0, "bf16"), (12.0, "bf16")])
def test_a_gpu_multiplies_bf16_by_its_generation(capability: float, found: str) -> None:
    assert resolve_precision("auto", capability) == found
    assert [resolve_precision(asked, capability) for asked in PRECISIONS] == PRECISIONS


@pytest.mark.parametrize("units", [True, False])
def test_auto_is_resolved_into_every_key_and_a_slow_choice_is_called_slow(
    units: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sweep.plan.platform.cpu_multiplies_bf16", lambda: units)
    found = {asked: platform(asking(asked, gpus=0)) for asked in ("auto", "float32", "bf16")}
    assert found["auto"] == found["bf16" if units else "float32"]
    assert "slower" not in found["float32"].caution + found["auto"].caution
    assert ("slower" in found["bf16"].caution) != units
    assert found["bf16"].numerics.precision == "bf16" and str(found["bf16"].numerics) == "bf16, 1 thread"


def test_trials_differ_by_precision_if_they_train_by_steps() -> None:
    def keys(precision: str) -> dict[tuple[str, str], str]:
        where = Platform("cpu", Numerics(precision=precision), slots=1, cpus=1, gpus=0.0)
        return {(trial.detector, trial.variant): trial.key for trial in expand(asking("auto"), where).fixed}

    per_precision = [keys(precision) for precision in PRECISIONS]
    for trial in per_precision[0]:
        different = len({found[trial] for found in per_precision})
        assert different == (1 if trial in {("ganomaly", "untrained"), ("knn", "plain")} else 3), trial
    assert {variant for _, variant in per_precision[0]} == {"repo_head", "repo_2018", "paper", "untrained", "plain"}


def test_a_trial_in_bf16_learns_other_weights_of_the_same_type_and_says_so(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store"))
    shards.put(store, "digits", size=16, root=None)
    weights = []
    for precision in ("float32", "bf16"):
        spec = dataclasses.replace(spec_of(), numerics=Numerics(precision=precision))
        result = finish(spec, store, tmp_path / "cache")
        assert result["spec"]["numerics"]["precision"] == precision
        weights.append(
            safetensors.torch.load(stored(store, spec, "weights.safetensors"))["generator.encoder1.0.weight"]
        )
    exact, rounded = weights
    assert exact.dtype == rounded.dtype == torch.float32 and not torch.equal(exact, rounded)
    torch.testing.assert_close(rounded, exact, rtol=0, atol=0.05)


def test_the_generation_of_a_gpu_chooses_the_precision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    NvidiaSmi(tmp_path, monkeypatch).lists(("NVIDIA H100 80GB HBM3", 9.0), ("Tesla T4", 7.5))
    for visible, device, precision in (("0", "NVIDIA H100 80GB HBM3", "bf16"), ("1", "Tesla T4", "float32")):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        found = platform(asking("auto"))
        assert (found.device, found.numerics.precision, found.caution) == (device, precision, "")
    assert "slower" in platform(asking("bf16")).caution  # the visible GPU is the T4
    with pytest.raises(UserError, match="tf32 needs GPUs of compute capability 8"):
        platform(asking("tf32"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert platform(asking("tf32")).numerics.precision == "tf32"


def test_tf32_on_a_cpu_is_refused_with_what_is_legal() -> None:
    with pytest.raises(UserError, match="use float32, bf16 or auto"):
        platform(asking("tf32", gpus=0))
