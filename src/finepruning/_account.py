"""Account: what was done and what it cost, as numbers, as JSON and as a text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ._config import Config
from ._find import Found
from ._observe import Observation
from ._paper import STEPS
from ._prune import Pruned
from ._readout import Readout
from ._version import __version__


@dataclass(frozen=True)
class LayerReport:
    """One prunable layer after the work."""

    name: str
    kind: str
    shape: tuple[int, ...]
    weights: int
    zeros: int
    error: float | None
    """Share of the variance of the outputs wanted, the dense ones, that is missed on the
    calibration data; None where not measured. What is wanted of the last layer, neighbours have
    had a say in."""


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
    norms: dict[str, Any]
    neighbours: dict[str, Any]
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


def account(
    found: Found,
    seen: Observation,
    done: dict[str, Pruned],
    answer: Readout | None,
    refused: str,
    norms: dict[str, Any],
    config: Config,
    seconds: dict[str, float],
    total: int,
    peak_memory: int | None,
) -> Report:
    """The report of one personalisation, from what each room noted."""
    layers = tuple(
        LayerReport(
            layer.name,
            type(layer.module).__name__,
            tuple(layer.weight.shape),
            layer.size,
            int((layer.weight == 0).sum()),
            done[layer.name].error if layer.name in done else None,
        )
        for layer in found.layers
    )
    positions = seen.trace.positions
    dense = seen.trace.macs(found.layers)
    personal = sum((la.weights - la.zeros) * positions[la.name] for la in layers)
    passes_again = STEPS if config.effort == "paper" else 1
    if norms["applied"]:  # to normalise anew, and to observe what comes of it
        passes_again += 2
    passes = 1 + passes_again * seen.calibration_samples / seen.samples
    solves = sum(d.macs for d in done.values())
    readout: dict[str, Any] = {"applied": answer is not None, "reason": refused}
    if answer is not None:
        readout |= {
            "outputs": len(answer.shift),
            "classes": answer.classes,
            "trust": answer.trust,
            "temperature": answer.temperature,
            "silent": int(answer.silent.sum()),
        }
    return Report(
        version=__version__,
        config=asdict(config),
        samples=seen.samples,
        calibration_samples=seen.calibration_samples,
        weights=total,
        zeros=sum(layer.zeros for layer in layers),
        layers=layers,
        left_alone=dict(found.skipped),
        readout=readout,
        norms=norms,
        neighbours=_neighbours(done, refused, config),
        seconds=seconds,
        peak_memory=peak_memory,
        macs={"dense": dense, "personal": personal},
        forward_passes=passes + solves / max(1, dense * seen.samples),
    )


def _neighbours(done: Mapping[str, Pruned], refused: str, config: Config) -> dict[str, Any]:
    found = next((layer.agreement for layer in done.values() if layer.agreement), None)
    if found is not None:
        numbers = {"asked": found.neighbours, "same": found.same, "weight": found.weight}
        reason = "they do not agree" if found.neighbours else "there are too few samples"
        applied = found.weight > 0
        return {"applied": applied, "reason": "" if applied else reason, **numbers}
    if config.neighbours == 0 or config.effort != "best":
        refused = "not asked for"
    return {"applied": False, "reason": refused or "the last layer was not fitted"}


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
        f"{'batch norms':<12}{_norms_line(report.get('norms'))}",
        f"{'neighbours':<12}{_neighbours_line(report.get('neighbours'))}",
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


def _norms_line(norms: Mapping[str, Any] | None) -> str:
    if norms is None:
        return "left as they were: an earlier version"
    if norms["applied"]:
        return f"follow this person (means have moved by {norms['moved']:.3f} variances)"
    return f"left as they were: {norms['reason']}"


def _neighbours_line(neighbours: Mapping[str, Any] | None) -> str:
    if neighbours is None:
        return "left out: an earlier version"
    same = f" ({neighbours['same']:.0%} answer alike)" if neighbours.get("asked") else ""
    if not neighbours["applied"]:
        return f"left out: {neighbours['reason']}{same}"
    return f"{neighbours['asked']} a sample asked{same}, weight {neighbours['weight']:.2f}"


def _readout_line(readout: Mapping[str, Any]) -> str:
    if not readout["applied"]:
        return f"left as it was: {readout['reason']}"
    if readout["trust"] < 0.01:
        return "changes nothing: no sign that classes are missing"
    return (
        f"about {readout['classes']:.0f} of {readout['outputs']} classes in use"
        f" (trust {readout['trust']:.2f}), the others made unlikely; {readout['silent']} removed"
    )
