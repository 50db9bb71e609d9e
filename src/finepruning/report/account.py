"""Account: what was done and what it cost, as numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from .._config import Config
from .._version import __version__
from ..core.neighbours import Agreement
from ..core.readout import Readout
from ..network.find import Found
from ..network.layers import Layer
from ..steps.check import Check
from ..steps.choose import Choice
from ..steps.mirror import Mirrored
from ..steps.norms import Following
from ..steps.observation import Observation
from ..steps.prune import Pruned
from .classes import classes_in_use
from .text import summary


@dataclass(frozen=True)
class LayerReport:
    """One prunable layer after the work."""

    name: str
    kind: str
    shape: tuple[int, ...]
    weights: int
    zeros: int
    macs: int
    """Multiply-accumulates for one sample, the zeros left out."""
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
    """Weights that can be pruned and run: what the sparsity is a share of."""
    all_weights: int
    """All parameters of two and more dimensions, those left alone included."""
    zeros: int
    layers: tuple[LayerReport, ...]
    left_alone: dict[str, str]
    task: str
    """What the outputs are: ``classes``, ``labels``, ``values``, ``tokens``; or ``unknown``."""
    readout: dict[str, Any]
    classes: dict[str, Any] | None
    """Of a classifier, what the samples are answered with: ``in_use``, each with its ``class``,
    ``name``, ``samples`` and how ``sure`` the answers are; and which of them have ``changed`` by
    the read-out."""
    halves: float | None
    """Share of the samples on whose answers two halves of them agree, each read out alone."""
    norms: dict[str, Any]
    neighbours: dict[str, Any]
    check: dict[str, Any]
    """What samples held back from the fit say of the finished network. Where it is not ``passed``,
    the dense weights are returned, for the ``reason`` given."""
    choice: dict[str, Any] | None
    """Where the sparsity was to be chosen: what was tried, and what each ``check`` said."""
    mirrored: dict[str, Any]
    """Where whole channels go, how many pictures were looked at mirrored, how much that
    ``changed``, and whether they were ``used`` as calibration data too."""
    update: dict[str, Any] | None
    """Of an update, how many earlier samples are ``remembered``, and whether the batch norms are
    ``aligned`` with another device."""
    warnings: tuple[str, ...]
    """What the user should know of the samples."""
    seconds: dict[str, float]
    peak_memory: int | None
    macs: dict[str, int]
    forward_passes: float

    @property
    def sparsity(self) -> float:
        """Zeros over the weights that can be pruned and run."""
        return self.zeros / self.weights

    @property
    def sparsity_of_all(self) -> float:
        """Zeros over all parameters of two and more dimensions."""
        return self.zeros / self.all_weights

    @property
    def dense_passes(self) -> float:
        """Total time in units of the dense network's own forward pass over the same samples."""
        return self.seconds["total"] / max(self.seconds["dense_forward"], 1e-9)

    def to_dict(self) -> dict[str, Any]:
        """All of it, ready for ``json.dumps``."""
        shares = {"sparsity": self.sparsity, "sparsity_of_all": self.sparsity_of_all}
        return {**asdict(self), **shares, "dense_passes": self.dense_passes}

    def __str__(self) -> str:
        return summary(self.to_dict())


def account(
    config: Config,
    found: Found,
    seen: Observation,
    done: Mapping[str, Pruned],
    *,
    answer: Readout | None,
    refused: str,
    norms: Following,
    agreement: Agreement | None,
    task: str,
    halves: float | None,
    check: Check,
    choice: Choice | None,
    warnings: tuple[str, ...],
    update: dict[str, Any] | None,
    names: Sequence[str] | None,
    solves: float,
    mirrored: Mirrored,
    seconds: dict[str, float],
    peak_memory: int | None,
) -> Report:
    """The report of one personalisation, from what each step noted."""
    layers = tuple(
        _layer(layer, seen.trace.positions[layer.name], done.get(layer.name))
        for layer in found.layers
    )
    dense = seen.trace.macs(found.layers)
    personal = sum(layer.macs for layer in layers)
    passes_again = config.paper.steps if config.effort == "paper" else 1
    if config.structure.wanted:  # to look at channels
        passes_again += 1
    more = mirrored.samples * (1 + passes_again * mirrored.used)
    if norms.applied:  # to normalise anew, and to observe what comes of it
        passes_again += 2
    passed: float = passes_again * seen.calibration_samples + check.held + more
    if choice is not None:
        tried = (len(choice.levels) - 1) * check.held
        passed += choice.passes * (seen.calibration_samples - check.held) + tried
        passed -= seen.calibration_samples * (choice.sparsity is None)
        solves += choice.macs
    passes = 1 + passed / seen.samples
    told = seen.logits is not None and task == "classes"
    return Report(
        version=__version__,
        config=config.to_dict(),
        samples=seen.samples,
        calibration_samples=seen.calibration_samples,
        weights=found.weights,
        all_weights=found.all_weights,
        zeros=sum(layer.zeros for layer in layers),
        layers=layers,
        left_alone=dict(found.skipped),
        task=task,
        readout=_readout(answer, refused),
        classes=classes_in_use(seen.logits.double().numpy(), answer, names)
        if told and seen.logits is not None
        else None,
        halves=halves,
        norms=asdict(norms),
        neighbours=_neighbours(agreement, refused, config),
        check=_named(asdict(check), names),
        choice=None if choice is None else _choice(asdict(choice), names),
        mirrored=asdict(mirrored),
        update=update,
        warnings=warnings,
        seconds=seconds,
        peak_memory=peak_memory,
        macs={"dense": dense, "personal": personal},
        forward_passes=passes + solves / max(1, dense * seen.samples),
    )


def _named(check: dict[str, Any], names: Sequence[str] | None) -> dict[str, Any]:
    """A check whose reason names the class that would lose most."""
    worst = check["worst"]
    if names is None or worst is None or not 0 <= worst < len(names):
        return check
    return check | {"reason": check["reason"].replace(f"class {worst} ", f"{names[worst]!r} ")}


def _choice(choice: dict[str, Any], names: Sequence[str] | None) -> dict[str, Any]:
    levels = [one | {"check": _named(one["check"], names)} for one in choice["levels"]]
    return choice | {"levels": levels}


def _layer(layer: Layer, positions: int, done: Pruned | None) -> LayerReport:
    zeros = int((layer.weight == 0).sum())
    return LayerReport(
        layer.name,
        type(layer.module).__name__,
        tuple(layer.weight.shape),
        layer.size,
        zeros,
        (layer.size - zeros) * positions,
        None if done is None else done.error,
    )


def _readout(answer: Readout | None, refused: str) -> dict[str, Any]:
    if answer is None:
        return {"applied": False, "reason": refused}
    return {
        "applied": True,
        "reason": refused,
        "outputs": len(answer.shift),
        "classes": answer.classes,
        "trust": answer.trust,
        "skew": answer.skew,
        "temperature": answer.temperature,
        "unseen": answer.unseen,
        "closed": int((answer.prior == 0).sum()),
    }


def _neighbours(agreement: Agreement | None, refused: str, config: Config) -> dict[str, Any]:
    if agreement is not None:
        asked = agreement.neighbours
        numbers = {"asked": asked, "same": agreement.same, "weight": agreement.weight}
        reason = "they do not agree" if asked else "there are too few samples"
        applied = agreement.weight > 0
        return {"applied": applied, "reason": "" if applied else reason, **numbers}
    if config.neighbours.weight == 0:
        refused = "not asked for"
    return {"applied": False, "reason": refused or "the last layer was not fitted"}
