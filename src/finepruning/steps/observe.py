"""Observe: what the dense network does on the person's data, in one forward pass.

A trace of one sample says which layers run, how often and how large. The pass itself keeps, of each
layer, the outputs at sampled positions (what the pruned network will be fitted to), the moments of
its inputs there, and the logits. Nothing grows with the samples but the logits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from .._errors import FinepruningError
from ..core.evidence import Evidence
from ..data.batches import Batch, logits_of
from ..network.closer import why_uncalled
from ..network.engine import Engine
from ..network.find import Found
from ..network.norms import Norm, norm_places
from .observation import Observation, ObserveOptions
from .trace import Trace, explained, looked_at
from .watch import MEANS, Watcher


def observe(
    engine: Engine,
    found: Found,
    norms: Iterable[Norm],
    batches: Iterable[Batch],
    *,
    options: ObserveOptions,
    seed: int,
    batch_count: int | None,
    step: Callable[[int], object],
    hold_back: tuple[float, int] = (0.0, 0),
    refit: bool = False,
) -> Observation:
    """Run the dense network once over all ``batches`` and keep what the later steps need.

    The first batches whose activations fit in ``options.memory`` bytes (a seeded choice of all,
    where ``batch_count`` is known) become the calibration set; the rest only adds to the logits.
    Of the calibration set, ``hold_back`` (a share, and how many at most) is not fitted to; with
    ``refit``, not at first.
    """
    stream = iter(batches)
    first = next((b for b in stream if b.size), None)
    if first is None:
        raise FinepruningError("batches: there is no data; give at least two samples")
    try:
        engine.settle(first.take(0))
        found, traced, uses = looked_at(engine, found, first)
    except FinepruningError as error:
        raise explained(engine, first, error) from error.__cause__
    room = _Room.of(first, traced, options, batch_count, seed)
    ahead, known = [first], first.size * (room.batches or 1)
    if room.batches is None:  # the calibration batches are kept anyway: read them, then count
        for batch in stream:
            ahead.append(batch)
            known += batch.size
            if known >= room.samples:
                break
    expected = min(room.samples, known)
    watcher = Watcher(traced, options, seed, options.positions / expected, engine.device)
    places = found.places + norm_places([*norms])
    calibration: list[Batch] = []
    logits: list[Tensor] = []
    samples, seconds = 0, 0.0
    held = _Held(*(hold_back if traced.head is not None or refit else (0.0, 0)))
    outputs: list[Tensor] = []
    watched: list[Tensor] = []

    def chosen() -> Iterable[Batch]:
        """The batches, each announced to the watcher before it runs."""
        most = max(1, int(options.at_once / max(1, traced.largest)))
        for number_, given in enumerate(chain(ahead, stream)):
            for batch in given.parts(most) if given.size else []:
                if room.takes(number_, batch, calibration):
                    fitted, back = held.split(batch, samples)
                    if fitted is not None:
                        watcher.begin(fitted, len(calibration))
                        calibration.append(fitted)
                        yield fitted
                    if back is None:
                        continue
                    batch = back
                    if refit:
                        watcher.begin(batch, len(held.batches) - 1, held=True)
                        yield batch
                        continue
                watcher.begin(batch, None)
                yield batch

    for passed in engine.stream(chosen(), places, watcher.watch):
        seconds += passed.seconds
        samples += passed.batch.size
        if traced.head is not None:
            logits.append(watcher.logits(passed.output))
            if watcher.watching:
                watched.append(logits[-1])
        elif held.batches and passed.batch is held.batches[-1]:
            outputs.append(output_of(passed.output))
        step(passed.batch.items)
    if samples < 2:
        raise FinepruningError("batches: one sample says nothing of what varies; give at least two")

    def counted(found: Mapping[str, Evidence], batches: Iterable[Batch]) -> dict[str, Evidence]:
        size = sum(batch.size for batch in batches)
        return {n: replace(e, positions=size * traced.positions[n]) for n, e in found.items()}

    evidence = counted(watcher.evidence, calibration)
    missing = {
        layer.name: why_uncalled(layer, uses.get(layer.name, set()))
        for layer in found.layers
        if layer.name not in evidence
    }
    inputs = watcher.inputs.kept()
    return Observation(
        found.without(missing),
        traced,
        tuple(calibration),
        samples,
        evidence,
        watcher.norm_moments(),
        inputs,
        watcher.kept_means(),
        torch.cat(watched)[:MEANS] if watched else None,
        torch.cat(logits) if logits else None,
        tuple(held.batches),
        tuple(held.rows),
        tuple(outputs),
        counted(watcher.held_evidence, held.batches),
        seconds,
        watcher.inputs.macs,
    )


def output_of(output: Any) -> Tensor:
    """What a network gives, as one tensor on the CPU; empty where it is none of numbers."""
    found = logits_of(output)
    numbers = isinstance(found, Tensor) and found.is_floating_point()
    return found.float().cpu() if numbers else torch.empty(0)


def space_for(traced: Trace, options: ObserveOptions) -> int:
    """How many samples' activations may wait at once."""
    return max(2, int(options.memory / max(1.0, options.beside * traced.largest)))


@dataclass
class _Held:
    """Holds samples back from the fit: the last ones of each batch, or whole batches where these
    cannot be cut."""

    share: float
    most: int
    batches: list[Batch] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    passed: int = 0

    def split(self, batch: Batch, first: int) -> tuple[Batch | None, Batch | None]:
        """What is fitted to and what is held back; ``first`` is the number of its first sample."""
        self.passed += batch.size
        count = min(int(self.passed * self.share), self.most) - len(self.rows)
        fitted: Batch | None = batch
        if count <= 0:
            return batch, None
        if count >= batch.size:
            fitted, count = None, batch.size
        elif (cut := batch.cut(batch.size - count)) is not None:
            fitted, batch = cut
        else:
            return batch, None
        start = first + (fitted.size if fitted is not None else 0)
        self.rows += range(start, start + count)
        self.batches.append(batch)
        return fitted, batch


@dataclass(frozen=True)
class _Room:
    """How many samples' activations may wait at once, and which batches get in."""

    samples: int
    space: int
    unit: float
    """Elements of one sample's largest input."""
    limit: int
    batches: int | None
    """How many there will be, where that is known."""
    numbers: frozenset[int]
    """Of the batches chosen; empty: the first that fit."""

    @classmethod
    def of(
        cls, first: Batch, traced: Trace, options: ObserveOptions, count: int | None, seed: int
    ) -> _Room:
        space = space_for(traced, options)
        samples = max(2, min(space, options.batches * first.size))
        if first.part:  # then the items' number says nothing of the batches'
            count = None
        batches = None if count is None else -(-count // first.items)
        numbers: frozenset[int] = frozenset()
        if batches is not None and first.size * batches > samples:
            order = torch.randperm(batches, generator=torch.Generator().manual_seed(seed))
            numbers = frozenset(order[: max(1, samples // first.size)].tolist())
        unit = first.weight / first.size
        return cls(samples, space, unit, options.batches, batches, numbers)

    def takes(self, number_: int, batch: Batch, held: list[Batch]) -> bool:
        """Whether a batch becomes one of the calibration set."""
        filled = sum(b.weight / self.unit for b in held)
        fits = filled + batch.weight / self.unit <= self.space and len(held) < self.limit
        return (fits and (not self.numbers or number_ in self.numbers)) or not held
