"""The process's memory: how high it rose, and giving back what was freed."""

from __future__ import annotations

import ctypes
import resource
import sys
from pathlib import Path

import torch


class PeakMemory:
    """Peak memory in bytes above the level at the start: the process's, or the CUDA device's.

    On Linux the kernel's high-water mark is reset through ``/proc``; where that is not possible the
    process's lifetime peak is compared, which only counts what exceeds every earlier peak.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            self._start = torch.cuda.memory_allocated(device)
            return
        try:
            Path("/proc/self/clear_refs").write_text("5")
            self._start = _status("VmRSS")
        except OSError:
            self._start = _lifetime_peak()

    def above_start(self) -> int:
        """Bytes since the start, at the peak."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device) - self._start
        try:
            return max(0, _status("VmHWM") - self._start)
        except OSError:
            return max(0, _lifetime_peak() - self._start)


def release_free_memory() -> None:
    """Give freed memory back to the system, where the C library is one that holds on to it (glibc).

    Each batch of the lock-step pass runs in a thread of its own, and glibc keeps what each one
    frees: on ResNet-50 that nearly doubled the peak.
    """
    trim = getattr(_C, "malloc_trim", None)
    if trim is not None:
        trim(0)


_C = ctypes.CDLL(None) if sys.platform == "linux" else None


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {field}")


def _lifetime_peak() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
