"""Observation: what one pass of the dense network on the person's data has shown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from ..core.evidence import Evidence, Sampled
from ..core.moments import Gram
from ..core.options import number
from ..data.batches import Batch
from ..network.find import Found
from ..network.norms import ChannelMoments
from .trace import Trace


@dataclass(frozen=True)
class ObserveOptions:
    """What is kept of the dense network's pass."""

    positions: int = number(8000, 1)
    """Output positions sampled a layer, over all samples together."""
    inputs_every: int = number(8, 1)
    """Of these, the moments of the dense network's inputs are taken at one of so many: to gather
    inputs costs more than outputs, and their moments need fewer samples."""
    memory: float = number(1.5e9, above=0)
    """Bytes of activations that may wait at once. More samples than fit are only read out."""
    beside: float = number(1.5, 1)
    """Of a sample, so many times the input and output of its largest layer wait at once."""
    at_once: float = number(64e6, above=0)
    """Bytes that the input and output of the largest layer take in one batch; larger batches run in
    parts. What comes between two layers, for the batch that runs, is several times that."""
    batches: int = number(128, 1)
    """Calibration batches at most: by then there are far more samples than positions are kept."""
    rank: int = number(64, 0)
    """Directions in which each layer's inputs vary that are kept for later updates; 0: nothing is
    kept for them."""
    transcript: int = number(128, 1)
    """Tokens at most of the transcript that an encoder-decoder network is fed: 30 seconds of speech
    are about 100."""


@dataclass(frozen=True)
class Observation:
    """What is known of the dense network on the person's data."""

    found: Found
    """The layers that the data reaches; the others are among those left alone."""
    trace: Trace
    calibration: tuple[Batch, ...]
    """The batches that the layers are fitted to."""
    samples: int
    """All that were seen."""
    evidence: Mapping[str, Evidence]
    """Of each layer that was called, by name."""
    norms: Mapping[str, ChannelMoments]
    """Of each batch norm that can follow the person."""
    inputs: Mapping[str, Gram]
    """Mean and covariance of each layer's inputs, the latter of low rank."""
    means: Mapping[str, Tensor]
    """Of each layer, single samples' mean outputs ``(m, C)``, of some samples;"""
    means_logits: Tensor | None
    """and what these are answered with ``(m, K)``."""
    logits: Tensor | None
    """Of all samples ``(n, K)``, float32 on the CPU; None where there is no head."""
    held: tuple[Batch, ...]
    """Batches held back from the fit, for the check at the end."""
    held_rows: tuple[int, ...]
    """Where their logits are."""
    held_outputs: tuple[Tensor, ...]
    """What the network gave for them, where there are no logits."""
    held_evidence: Mapping[str, Evidence]
    """What they show of each layer, by name; empty unless asked for."""
    forward_seconds: float
    macs: float
    """Multiply-accumulates of what is kept of the inputs."""
    known: int = 0
    """Samples that the logits, and what else is known, stand for, earlier ones included."""

    def __post_init__(self) -> None:
        if not self.known:
            object.__setattr__(self, "known", self.samples)

    @property
    def calibration_samples(self) -> int:
        """How many samples the layers are fitted to."""
        return sum(batch.size for batch in self.calibration)

    def with_held(self) -> Observation:
        """The same with the samples held back among those that the layers are fitted to."""
        both = self._fitted_to(self.held, self.held_evidence)
        return replace(both, held=(), held_rows=(), held_outputs=(), held_evidence={})

    def beside(self, other: Observation) -> Observation:
        """The same with the calibration data of another one beside its own."""
        return self._fitted_to(other.calibration, other.evidence)

    def _fitted_to(self, batches: tuple[Batch, ...], more: Mapping[str, Evidence]) -> Observation:
        evidence, start = dict(self.evidence), len(self.calibration)
        for name, other in more.items():
            if name in evidence:
                evidence[name] = evidence[name].merge(other.renumbered(start))
        return replace(self, calibration=(*self.calibration, *batches), evidence=evidence)

    def thinned(self, every: int) -> Observation:
        """The same at one of ``every`` positions, but one at least of each sample."""
        known: dict[tuple[int, int], Tensor] = {}  # layers that see the same go on sharing it

        def some(sampled: Sampled) -> Sampled:
            step = max(1, min(every, len(sampled.sample) // max(1, sampled.size[0])))
            sample, position = (
                known.setdefault((id(given), step), given[::step])
                for given in (sampled.sample, sampled.position)
            )
            kept = sampled.kept[:, ::step]
            return replace(sampled, sample=sample, position=position, kept=kept)

        def thin(one: Evidence) -> Evidence:
            fewer = replace(one, sampled={b: some(s) for b, s in one.sampled.items()})
            if one.joint is None or not one.sampled:
                return fewer
            return replace(fewer, joint=one.joint.decayed(fewer.count / one.count))

        return replace(self, evidence={name: thin(one) for name, one in self.evidence.items()})

    def of_all(self, first: Observation) -> Observation:
        """The same, when it is of the calibration set alone, and the ``first`` one was of all."""
        return replace(
            self, samples=first.samples, known=first.samples, macs=self.macs + first.macs,
            forward_seconds=first.forward_seconds,
        )  # fmt: skip

    def light(self) -> Observation:
        """The same without what takes room."""
        return replace(self, calibration=(), held=(), evidence={}, held_evidence={})
