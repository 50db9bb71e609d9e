"""Structure: which whole channels go, by one pass of the dense network and what they cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial, reduce
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..core.arrays import LowRank, written_out
from ..core.channels import (
    DEFAULT,
    ChannelOptions,
    Path,
    Reader,
    by_magnitude,
    eliminate,
    evenly,
    refitted,
    spend,
)
from ..core.evidence import Evidence, Rectified, Sampled
from ..core.fit import FitOptions, Solution, repaired
from ..core.moments import Gram, Moments
from ..core.options import number, share
from ..network.channels import Channels, Group
from ..network.engine import Engine
from ..network.find import Found
from ..network.layers import Layer, precise
from .observation import Observation
from .prune import AnyFit, columns_of


@dataclass(frozen=True)
class StructureOptions:
    """How much of the network's cost stays, where whole channels go; all None: none go."""

    macs: float | None = share(None)
    """Share of the multiply-accumulates."""
    params: float | None = share(None)
    """Share of the weights."""
    latency: float | None = share(None)
    """Share of the time that one sample takes in PyTorch on this machine."""
    narrow: int = number(16, 0)
    """Layers that see fewer inputs, depthwise convolutions for example, are not refitted."""
    shut: float = number(1e-2, 0, 1)
    """Of a norm's mean factor: a channel of less is shut, and nothing can be made up for in it."""
    mirror: float = number(0.5, 0)
    """Pictures are seen mirrored too, where that changes at most such a share of what the outputs
    tell between samples; 0: they are not."""
    rectify: int = number(2, 0)
    """Times that a layer is fitted again to what the rectifier behind it lets through."""
    channels: ChannelOptions = DEFAULT

    @property
    def wanted(self) -> bool:
        """Whether any channel is to go."""
        return any(value is not None for value in (self.macs, self.params, self.latency))


@dataclass(frozen=True)
class Structure:
    """What stays of each group's channels."""

    kept: Mapping[str, np.ndarray]
    """Booleans ``(C,)`` by group."""
    columns: Mapping[str, np.ndarray]
    """Booleans ``(D,)`` of the columns that stay, by layer."""
    rows: Mapping[str, np.ndarray]
    """Booleans ``(O,)`` of the outputs that stay, by layer."""
    left: Mapping[str, str]
    """Layers whose outputs stay as many as they are, and why."""


def paths(
    engine: Engine,
    found: Found,
    seen: Observation,
    channels: Channels,
    shortcuts: Shortcuts,
    options: ChannelOptions,
    step: Callable[[int], object],
) -> tuple[dict[str, Path], Observation]:
    """In which order the channels of each group go, by the dense network's inputs; and what was
    observed, with the shortcuts added to what is wanted."""
    waiting = {g.name: set(g.readers) for g in channels.groups}
    held: dict[str, Gram] = {}
    layers = {layer.name: layer for layer in found.layers}
    made: dict[str, Path] = {}
    wanted = dict(seen.evidence)

    def visit(layer: Layer, inputs: dict[int, Tensor]) -> None:
        mine = [g for g in channels.groups if layer.name in g.readers]
        evidence = seen.evidence[layer.name]
        shortcuts.remember(layer, inputs)
        wanted[layer.name] = shortcuts.plus(layer, evidence)
        if mine:
            held[layer.name] = _gram(layer, evidence, inputs)
        for group in mine:
            waiting[group.name].discard(layer.name)
            if not waiting[group.name]:
                readers = [
                    _reader(layers[name], held[name], seen.evidence[name], group)
                    for name in group.readers
                ]
                made[group.name] = (
                    eliminate(readers, options)
                    if options.rule == "elimination"
                    else by_magnitude(_norms(layers, group))
                )
        for name in [*held]:
            if not any(name in g.readers and waiting[g.name] for g in channels.groups):
                del held[name]
        step(1)

    expected = {name: set(evidence.sampled) for name, evidence in seen.evidence.items()}
    engine.lock_step(seen.calibration, found.places, visit, expected)
    return made, replace(seen, evidence=wanted)


def _gram(layer: Layer, evidence: Evidence, inputs: Mapping[int, Tensor]) -> Gram:
    """Of all that the layer sees."""
    ways = {b: partial(columns_of, layer, x) for b, x in inputs.items() if b in evidence.sampled}
    parts = [evidence.joint.gram] if evidence.joint is not None else []
    if ways:  # of the inputs alone
        alone = [(X, Y[:, :, :0], *w) for X, Y, *w in evidence.seen_by(ways).pairs()]
        D = alone[0][0].shape[2]
        few = D > WIDE and not parts and 4 * sum(X.shape[1] for X, *_ in alone) < D
        parts.append((Moments.few if few else Moments.of)(alone).gram)
    return reduce(Gram.merge, parts)


def _reader(layer: Layer, gram: Gram, evidence: Evidence, group: Group) -> Reader:
    W = precise(layer.matrix())[0]
    columns = columns_of_channels(layer, group.readers[layer.name])
    wide = isinstance(gram.H, LowRank) and W.shape[1] > WIDE
    return Reader(
        gram.H if wide else written_out(gram.H)[0],
        W,
        float(evidence.outputs.variance.sum()),
        columns,
    )


def _norms(layers: Mapping[str, Layer], group: Group) -> np.ndarray:
    """Norms ``(C,)`` of all weights that write and read each channel."""
    total = np.zeros(group.channels)
    for name, written in group.writers.items():
        rows = precise(layers[name].matrix()).flatten(0, 1).square().sum(1).cpu().numpy()
        total += np.where(written.numpy() >= 0, rows[written.numpy()], 0.0)
    for name, read in group.readers.items():
        columns = precise(layers[name].matrix())[0].square().sum(0).cpu().numpy()
        total += columns[columns_of_channels(layers[name], read)].sum(1)
    return np.asarray(total**0.5)


def columns_of_channels(layer: Layer, channels: Tensor) -> np.ndarray:
    """Columns ``(C, n k)`` of the input channels ``(C, n)``: a kernel sees each ``k`` times."""
    kernel = layer.weight[0, 0].numel() if layer.weight.ndim > 2 else 1
    each = channels[:, :, None] * kernel + torch.arange(kernel)
    return each.reshape(len(channels), -1).numpy()


class Cost:
    """Multiply-accumulates, or weights, of a network with so many channels in each group."""

    def __init__(self, found: Found, seen: Observation, channels: Channels, macs: bool) -> None:
        self.each: list[tuple[float, str, str]] = []
        """Of each layer what it costs whole, and the groups that it reads and writes."""
        reads = {name: g.name for g in channels.groups for name in g.readers}
        writes = {n: g.name for g in channels.groups for n in (*g.writers, *g.between)}
        for layer in found.layers:
            times = seen.trace.positions.get(layer.name, 1) if macs else 1
            cost = float(layer.size * times)
            self.each.append((cost, reads.get(layer.name, ""), writes.get(layer.name, "")))
        self.sizes = {g.name: g.channels for g in channels.groups}

    @property
    def whole(self) -> float:
        """What all of it costs."""
        return sum(cost for cost, _, _ in self.each)

    def __call__(self, kept: Mapping[str, int]) -> float:
        shares = {name: count / self.sizes[name] for name, count in kept.items()} | {"": 1.0}
        return sum(cost * shares.get(r, 1.0) * shares.get(w, 1.0) for cost, r, w in self.each)


def structure(
    found: Found,
    seen: Observation,
    channels: Channels,
    made: Mapping[str, Path],
    part: float,
    macs: bool,
    options: ChannelOptions,
) -> Structure:
    """What stays, so that a ``part`` of the ``macs``, or else of the weights, does."""
    usable = Channels(tuple(g for g in channels.groups if g.name in made), channels.left)
    cost = Cost(found, seen, usable, macs)
    target = part * cost.whole
    even = options.rule == "magnitude"
    counts = evenly(made, cost, target) if even else spend(made, cost, target, options)
    kept = {name: made[name].kept(count) for name, count in counts.items()}
    layers = {layer.name: layer for layer in found.layers}
    columns: dict[str, np.ndarray] = {}
    rows: dict[str, np.ndarray] = {}
    for group in usable.groups:
        stays = kept[group.name]
        for name, read in group.readers.items():
            live = columns.setdefault(name, np.ones(layers[name].matrix().shape[2], dtype=bool))
            live[columns_of_channels(layers[name], read)[~stays].reshape(-1)] = False
        for name, written in (*group.writers.items(), *group.between.items()):
            if name in layers:  # the others are norms
                live = rows.setdefault(name, np.ones(len(layers[name].weight), dtype=bool))
                gone = written.numpy()[~stays]
                live[gone[gone >= 0]] = False
    return Structure(kept, columns, rows, channels.left)


WIDE = 8192
"""Inputs from which on a covariance of few samples is not written out."""

Live = tuple[np.ndarray, np.ndarray]
"""Booleans of the columns ``(D,)`` and of the rows ``(G O,)`` that stay."""


def refit(structure_: StructureOptions) -> AnyFit:
    """A fit of the columns and rows that stay."""

    def fit(W: Tensor, evidence: Evidence, live: Live, options_: FitOptions) -> Solution:
        columns, rows = live
        known = evidence.sampled or evidence.joint is not None  # else nothing to be fitted to
        if options_.method == "rescale" and known:  # its mean and variance alone
            return repaired(cut(W, evidence, live, options_).weights, evidence, options_)
        if W.shape[0] > 1 or W.shape[2] < structure_.narrow or not known:
            return cut(W, evidence, live, options_)
        found = refitted(W, evidence, columns, options_, structure_.rectify)
        found.weights[:, torch.from_numpy(~rows)] = 0
        return found

    return fit


def cut(W: Tensor, evidence: Evidence, live: Live, options: FitOptions) -> Solution:
    """``W`` as it is, without the columns and rows that go."""
    columns, rows = (torch.from_numpy(each).to(W) for each in live)
    return Solution(W * columns * rows.reshape(*W.shape[:2], 1))


class Shortcuts:
    """What layers' outputs are added to, in the dense network and then in the pruned one, and what
    is read of the sum.

    A sum ``a y + b + s`` stays what it was where ``y`` is wanted as ``y + (s - s') / a``: ``s'`` is
    what the pruned network adds, ``a`` and ``b`` are the norm's factor and shift.
    """

    def __init__(self, model: nn.Module, channels: Channels, shut: float) -> None:
        self._model, self._known, self._shut = model, channels.shortcuts, shut
        self._rectified = channels.rectified
        self._sources: dict[str, dict[int, Tensor]] = {}
        self._added: set[tuple[str, int]] = set()

    def remember(self, layer: Layer, inputs: Mapping[int, Tensor]) -> None:
        """Keep what a layer sees, where another one is added to it."""
        if any(s.source == layer.name for s in self._known.values()):
            self._sources[layer.name] = dict(inputs)

    def plus(self, layer: Layer, evidence: Evidence) -> Evidence:
        """Outputs wanted with the dense network's shortcut."""
        return self._moved(layer, evidence, 1.0)[0]

    def less(self, layer: Layer, evidence: Evidence) -> Evidence:
        """Outputs wanted without the pruned network's shortcut, and what is read of them."""
        moved, added = self._moved(layer, evidence, -1.0)
        if layer.name not in self._rectified or layer.groups > 1:
            return moved
        a, b = self._norm(self._rectified[layer.name], layer)
        if layer.name not in self._known:
            added = dict.fromkeys(moved.sampled, torch.zeros(()))
        offset = {batch: precise(b) + s for batch, s in added.items()}
        return replace(moved, rectified=Rectified(precise(a), offset))

    def _moved(
        self, layer: Layer, evidence: Evidence, sign: float
    ) -> tuple[Evidence, dict[int, Tensor]]:
        """Outputs wanted with a shortcut or without it, and the shortcut, by batch."""
        shortcut = self._known.get(layer.name)
        if shortcut is None:
            return evidence, {}
        inputs = self._sources.get(shortcut.source, {})
        others = (n for n, s in self._known.items() if s.source == shortcut.source)
        if not any(name != layer.name for name in others):
            self._sources.pop(shortcut.source, None)  # as much as all activations of a layer
        a, _ = self._norm(shortcut.norm, layer)
        factor = precise(torch.where(a == 0, 0.0, 1 / torch.where(a == 0, 1.0, a)))
        sampled, shortcuts = {}, {}
        for batch, kept in evidence.sampled.items():
            x, call = inputs.get(batch), (layer.name, batch)
            if x is not None and _alongside(layer, x, kept) and (sign > 0 or call in self._added):
                added = precise(layer.rows(x, kept.sample, kept.position))
                y = kept.y + sign * factor * added
                again = Sampled.of(kept.size, kept.sample, kept.position, y)
                kept = replace(again, weight=kept.weight, x=kept.x)
                shortcuts[batch] = added
                self._added.add(call)
            elif sign < 0 and call in self._added:
                continue  # it went another way: what is wanted of it is not known
            sampled[batch] = kept
        return replace(evidence, sampled=sampled), shortcuts

    def _norm(self, name: str | None, layer: Layer) -> tuple[Tensor, Tensor]:
        """Factor and shift ``(C,)``; a factor of 0 where the norm lets nothing through."""
        if name is None:
            a = layer.weight.new_ones(len(layer.weight))
            return a, torch.zeros_like(a)
        m: Any = self._model.get_submodule(name)
        a = (m.running_var + m.eps).rsqrt() * (1.0 if m.weight is None else m.weight)
        b = (0.0 if m.bias is None else m.bias) - a * m.running_mean
        return torch.where(a.abs() < self._shut * a.abs().mean(), 0.0, a), b


def _alongside(layer: Layer, x: Tensor, kept: Sampled) -> bool:
    """Whether ``x`` has the shape of the layer's outputs."""
    wide = x.shape[1] if layer.weight.ndim > 2 else x.shape[-1]
    return (
        bool(layer.positions(x)[0] == kept.size[0] and wide == kept.kept.shape[2])
        and (x[0, 0].numel() if layer.weight.ndim > 2 else x[0].numel() // wide) == kept.size[1]
    )
