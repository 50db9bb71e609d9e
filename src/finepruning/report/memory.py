"""How high the memory of this process rises."""

from __future__ import annotations

import threading

import psutil
import torch

EVERY = 0.02
"""Seconds between two looks."""


class PeakMemory:
    """Peak memory in bytes above the level at the start: the process's, or the CUDA device's.

    Looked at from beside, many times a second: nothing of the host process is reset, and several
    may be measured at once (each then counts what all of them take). Where the process reaches a
    new height of its lifetime, the system's own record of it is taken. ``stop`` it when done; as a
    context it stops itself.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stopped = threading.Event()
        self._process = psutil.Process()
        self._record = self._lifetime_peak()
        self._start = self._highest = self._now()
        self._thread = threading.Thread(target=self._look, name="peak memory", daemon=True)
        self._thread.start()

    def above_start(self) -> int:
        """Bytes since the start, at the peak."""
        self._highest = max(self._highest, self._now())
        record = self._lifetime_peak()
        highest = max(self._highest, record) if record > self._record else self._highest
        return max(0, highest - self._start)

    def stop(self) -> None:
        """Look no more."""
        self._stopped.set()
        self._thread.join()

    def __enter__(self) -> PeakMemory:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _look(self) -> None:
        while not self._stopped.wait(EVERY):
            self._highest = max(self._highest, self._now())

    def _now(self) -> int:
        if self._device.type == "cuda":
            return torch.cuda.memory_allocated(self._device)
        return int(self._process.memory_info().rss)

    def _lifetime_peak(self) -> int:
        """The highest since the process began, where the system keeps it; else 0."""
        if self._device.type == "cuda":
            return 0
        try:
            import resource
        except ImportError:  # Windows, where psutil knows it
            return int(getattr(self._process.memory_info(), "peak_wset", 0))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if psutil.MACOS else peak * 1024
