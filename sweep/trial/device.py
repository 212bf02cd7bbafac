"""The device of a trial, and the most memory that the trial used there."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import torch

from sweep.spec.bf16_units import cpu_bf16_units
from sweep.spec.trial import TrialSpec


def device_of(spec: TrialSpec) -> torch.device:
    """Return the device that a trial's spec names, set up for reproducible arithmetic.

    Raises:
        RuntimeError: the trial was given a GPU, and torch finds none; or it is to compute in bf16 on a kind of CPU that
            this machine does not have.  The message contains the fix.
    """
    if spec.numerics.units and (found := cpu_bf16_units()) != spec.numerics.units:
        raise RuntimeError(
            f"this trial was planned for bf16 by {spec.numerics.units}; here bf16 is computed by {found}, which gives "
            "other numbers: use machines of one kind, or --set trial.precision=float32"
        )
    if spec.device == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        seen = os.environ.get("CUDA_VISIBLE_DEVICES", "unset")
        raise RuntimeError(
            f"this trial was given a GPU ({spec.device}) and torch finds none (CUDA_VISIBLE_DEVICES {seen}): "
            "check the driver with nvidia-smi, or plan for the CPU with --set trial.gpus=0"
        )
    torch.backends.cudnn.benchmark = False  # it would choose kernels by timing, so differently in each run
    torch.backends.cudnn.deterministic = True
    for operations in (torch.backends.cuda.matmul, torch.backends.cudnn.conv):  # type: ignore[attr-defined]
        # cuDNN's default is TF32.  Training sets its own precision, see models.components.numerics.
        operations.fp32_precision = "ieee"
    return torch.device("cuda")


def hardware(device: torch.device) -> str:
    """Return the name of the GPU, or of this machine's processor if the system provides one."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()


def reset_peak(device: torch.device) -> None:
    """Start to measure the peak memory of a new trial, since one process runs many trials."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    try:
        Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM to what is resident now
    except OSError:
        return  # not Linux, or no permission: the peak is then that of the process, not of the trial


def peak(device: torch.device) -> int | None:
    """Return the peak bytes since `reset_peak`; None if unknown.

    On a GPU: bytes of torch's allocator.  On the CPU: bytes resident in this process.
    """
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), None)
