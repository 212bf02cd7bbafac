"""Where a trial runs: its device, and the most memory that it took there."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import torch

from sweep.spec.trial import TrialSpec


def device_of(spec: TrialSpec) -> torch.device:
    """Device that a trial's spec names.

    Raises:
        RuntimeError: a GPU was assigned and is not there, with the fix.
    """
    if spec.device == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        seen = os.environ.get("CUDA_VISIBLE_DEVICES", "unset")
        raise RuntimeError(
            f"this trial was given a GPU ({spec.device}) and torch finds none (CUDA_VISIBLE_DEVICES {seen}): "
            "check the driver with nvidia-smi, or plan for the CPU with --set trial.gpus=0"
        )
    torch.backends.cudnn.benchmark = False  # chosen by timing, hence by luck
    torch.backends.cudnn.deterministic = True
    for products in (torch.backends.cuda.matmul, torch.backends.cudnn.conv):  # type: ignore[attr-defined]
        products.fp32_precision = "ieee"  # cuDNN's default is TF32; training says what it wants (models.numerics)
    return torch.device("cuda")


def hardware(device: torch.device) -> str:
    """Name of the GPU, or of this machine's processor as far as it says one."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()


def reset_peak(device: torch.device) -> None:
    """Begin to measure peak memory anew, since a process runs many trials."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    try:
        Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM to what is resident now
    except OSError:
        return  # not Linux, or not allowed: the peak is then the process's, not the trial's


def peak(device: torch.device) -> int | None:
    """Peak bytes since `reset_peak`: of the GPU's allocator, or resident in this process."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), None)
