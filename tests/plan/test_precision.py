"""`precision: auto` depends on the device, and is decided before any trial runs."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from rich.console import Console

from data.storage import shards
from sweep.errors import UserError
from sweep.plan.expand import expand
from sweep.plan.platform import Host, Platform, fit, resolve_precision
from sweep.plan.status import read_status
from sweep.plan.table import table
from sweep.spec.bf16_units import cpu_bf16_units
from sweep.spec.load import load, resolve
from sweep.spec.sweep import Sweep
from sweep.spec.trial import Numerics, TrialSpec, other_arithmetic_keys
from sweep.store import open_store
from sweep.store.ledger import Ledger
from tests.support.nvidia_smi import NvidiaSmi
from tests.support.sweeps import platform, write_config
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
        ("fpu avx2 avx512f avx512_vnni", None, "emulated"),
        ("fpu avx512f avx512_bf16", None, "avx512_bf16"),
        ("fpu avx512f avx512_bf16 amx_bf16 amx_tile", None, "amx_bf16"),
        ("fpu avx512f avx512_bf16 amx_bf16", "avx512_core_amx", "amx_bf16"),
        ("fpu avx512f avx512_bf16 amx_bf16", "avx512_core_bf16", "avx512_bf16"),
        ("fpu avx512f avx512_bf16 amx_bf16", "avx512_core_fp16", "avx512_bf16"),
        ("fpu avx512f avx512_bf16 amx_bf16", "ALL", "amx_bf16"),
        ("fpu avx512f avx512_bf16 amx_bf16", "AVX512_CORE_VNNI", "emulated"),
        ("fpu avx512f avx512_bf16 amx_bf16", "AVX2", "emulated"),
        ("fpu avx2 avx512f", "AVX512_CORE_BF16", "emulated"),
    ],
)
def test_a_cpu_bf16_units_if_it_has_the_instructions_and_may_use_them(
    flags: str, most: str | None, found: str, cpuinfo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    if most is not None:
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", most)
    cpuinfo.write_text(f"processor\t: 0\nmodel name\t: Some avx512_bf16\nflags\t\t: {flags}\n\nprocessor\t: 1\n")
    assert cpu_bf16_units(cpuinfo) == found


def test_of_an_unknown_cpu_nothing_is_expected(cpuinfo: Path) -> None:
    assert cpu_bf16_units(cpuinfo) == "emulated"
    cpuinfo.write_text("Features\t: fp asimd bf16\n")
    assert cpu_bf16_units(cpuinfo) == "emulated"


@pytest.mark.parametrize(("capability", "found"), [(7.5, "float32"), (8.0, "bf16"), (9.0, "bf16"), (12.0, "bf16")])
def test_a_gpu_multiplies_bf16_by_its_generation(capability: float, found: str) -> None:
    assert resolve_precision("auto", capability) == found
    assert [resolve_precision(asked, capability) for asked in PRECISIONS] == PRECISIONS


@pytest.mark.parametrize("units", ["amx_bf16", "avx512_bf16", "emulated"])
def test_auto_is_resolved_into_every_key_and_a_slow_choice_is_called_slow(
    units: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sweep.plan.platform.cpu_bf16_units", lambda: units)
    found = {asked: platform(asking(asked, gpus=0)) for asked in ("auto", "float32", "bf16")}
    has_units = units != "emulated"
    assert found["auto"] == found["bf16" if has_units else "float32"]
    assert "slower" not in found["float32"].caution + found["auto"].caution
    assert ("slower" in found["bf16"].caution) != has_units
    assert found["bf16"].numerics == Numerics("bf16", units=units)
    assert str(found["bf16"].numerics) == f"bf16 ({units}), 1 thread"
    assert found["float32"].numerics.units == ""


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


def test_bf16_on_cpus_that_are_not_known_is_refused() -> None:
    with pytest.raises(UserError, match="each kind of CPU gives other numbers in bf16"):
        fit(asking("bf16"), [Host(4)], gpu="", capability=None)


def with_units(units: str) -> TrialSpec:
    return dataclasses.replace(spec_of(), numerics=Numerics("bf16", units=units))


def test_each_kind_of_cpu_is_another_trial_in_bf16_and_the_same_one_in_float32() -> None:
    kinds = ["", "amx_bf16", "avx512_bf16", "emulated"]
    keys = [with_units(units).key for units in kinds]
    assert len(set(keys)) == len(kinds)
    for units in kinds[1:]:
        assert set(other_arithmetic_keys(with_units(units))) == set(keys) - {with_units(units).key}
    assert list(other_arithmetic_keys(spec_of())) == []
    assert "units" not in with_units("").to_dict()["numerics"], "its key is that of a spec without the field"
    again = TrialSpec.from_dict(with_units("amx_bf16").to_dict())
    assert again == with_units("amx_bf16")


def test_a_result_of_another_kind_of_cpu_does_not_count_and_the_plan_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = write_config(tmp_path, [{"detectors": ["ganomaly"], "abnormal": [0]}], trial={"precision": "bf16"})
    monkeypatch.setattr("sweep.plan.platform.cpu_bf16_units", lambda: "amx_bf16")
    elsewhere = load(config)
    ledger = Ledger(open_store(elsewhere.storage), elsewhere.name)
    (planned,) = expand(elsewhere, platform(elsewhere)).fixed
    ledger.put_result(planned.key, {"status": "ok"})
    monkeypatch.setattr("sweep.plan.platform.cpu_bf16_units", lambda: "avx512_bf16")
    here = platform(elsewhere)
    status = read_status(expand(elsewhere, here), ledger)
    assert (status.count("done"), status.count("to_run"), status.count("other_arithmetic")) == (0, 1, 1)
    output = io.StringIO()
    Console(file=output, width=400).print(table(elsewhere, here, status))
    assert "1 trials have results in another arithmetic than bf16 (avx512_bf16), 1 thread" in output.getvalue()


def test_a_trial_that_was_planned_for_another_kind_of_cpu_does_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(str(tmp_path / "store"))
    monkeypatch.setattr("sweep.trial.device.cpu_bf16_units", lambda: "emulated")
    with pytest.raises(RuntimeError, match="use machines of one kind"):
        finish(with_units("amx_bf16"), store, tmp_path / "cache")
