"""Account: what was done and what it cost, as numbers, as JSON and as a text."""

from __future__ import annotations

import ctypes
import resource
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch


@dataclass(frozen=True)
class LayerReport:
    """One prunable layer after the work."""

    name: str
    kind: str
    shape: tuple[int, ...]
    weights: int
    zeros: int
    error: float | None
    """Share of the dense outputs' variance missed on the calibration data; None where not
    measured."""


@dataclass(frozen=True)
class Report:
    """What :func:`finepruning.personalize` did and what it cost. ``str()`` of it is for reading.

    Times are seconds of wall clock; memory is in bytes; ``macs`` counts multiply-accumulates of
    Conv and Linear layers for one sample. ``forward_passes`` is the multiply-accumulates of
    everything done, solves included, over those of one dense forward pass over the same samples.
    """

    version: str
    config: dict[str, Any]
    samples: int
    calibration_samples: int
    weights: int
    zeros: int
    layers: tuple[LayerReport, ...]
    left_alone: dict[str, str]
    readout: dict[str, Any]
    seconds: dict[str, float]
    peak_memory: int | None
    macs: dict[str, int]
    forward_passes: float

    @property
    def sparsity(self) -> float:
        """Zeros over all weights of Conv and Linear layers."""
        return self.zeros / self.weights

    @property
    def dense_passes(self) -> float:
        """Total time in units of the dense network's own forward pass over the same samples."""
        return self.seconds["total"] / max(self.seconds["dense_forward"], 1e-9)

    def to_dict(self) -> dict[str, Any]:
        """All of it, ready for ``json.dumps``."""
        return {**asdict(self), "sparsity": self.sparsity, "dense_passes": self.dense_passes}

    def __str__(self) -> str:
        return format_report(self.to_dict())


def format_report(report: Mapping[str, Any]) -> str:
    """The text of a report given as :meth:`Report.to_dict` returned it."""
    seconds, macs, readout = report["seconds"], report["macs"], report["readout"]
    memory = report["peak_memory"]
    lines = [
        f"{'sparsity':<12}{report['sparsity']:.2%} of {report['weights']:,}"
        " Conv and Linear weights are zero",
        f"{'samples':<12}{report['samples']} unlabelled"
        f" ({report['calibration_samples']} to fit the layers)",
        f"{'effort':<12}{report['config']['effort']}, seed {report['config']['seed']}",
        f"{'read-out':<12}{_readout_line(readout)}",
        f"{'time':<12}{seconds['total']:.1f} s = {report['dense_passes']:.1f} dense forward passes"
        f" (observe {seconds['observe']:.1f}, prune {seconds['prune']:.1f},"
        f" of it solving {seconds['solve']:.1f})",
        f"{'computation':<12}{report['forward_passes']:.1f} forward-pass equivalents;"
        " one epoch of fine-tuning takes 3",
        f"{'MACs':<12}{macs['dense']:,} a sample dense,"
        f" {macs['personal']:,} with the zeros left out",
        f"{'memory':<12}"
        + ("not measured" if memory is None else f"peak {memory / 1e6:,.0f} MB above the start"),
        "",
        f"{'layer':<36}{'kind':<12}{'weights':>12}{'zeros':>8}{'error':>8}",
    ]
    for layer in report["layers"]:
        error = "-" if layer["error"] is None else f"{layer['error']:.3f}"
        share = layer["zeros"] / max(1, layer["weights"])
        lines.append(
            f"{layer['name']:<36}{layer['kind']:<12}{layer['weights']:>12,}{share:>8.1%}{error:>8}"
        )
    if report["left_alone"]:
        lines += ["", "left alone:"]
        lines += [f"  {name}: {reason}" for name, reason in report["left_alone"].items()]
    return "\n".join(lines)


def _readout_line(readout: Mapping[str, Any]) -> str:
    if not readout["applied"]:
        return f"left as it was: {readout['reason']}"
    return (
        f"about {readout['classes']:.0f} of {readout['outputs']} classes in use"
        f" (trust {readout['trust']:.2f}), the others made unlikely; {readout['silent']} removed"
    )


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
