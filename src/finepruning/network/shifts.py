"""Shifts: a fit moves the mean of a layer's outputs. A layer with a bias keeps that itself; one
without hands it to the batch norm behind it; and where there is none the layer is fitted without.

So no parameter is ever added: what reads ``bias is None`` goes on reading it, and the weights fit
the architecture that they came from.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .._errors import FinepruningError
from ..data.batches import Batch
from .engine import Engine, alike
from .find import Found
from .layers import Layer
from .norms import Norm, holds_statistics, norm_places


def find_norms_behind(engine: Engine, found: Found, batch: Batch) -> None:
    """Tell each layer without a bias of the batch norm that sees its outputs and nothing else.

    One sample shows who follows whom. Another pass moves all such outputs and moves them back
    before the norms: where the network answers as before, nothing else sees them.
    """
    for layer in found.layers:
        layer.norm = None
    wanted = {layer.name for layer in found.layers if layer.bias is None and layer.plain}
    norms = [
        Norm(name, m) for name, m in engine.model.named_modules() if wanted and holds_statistics(m)
    ]
    if not norms:
        return
    places = (*found.places, *norm_places(norms))
    gave: dict[int, tuple[Layer, Tensor]] = {}
    calls: dict[str, int] = {}
    pairs: list[tuple[Layer, Norm]] = []

    def watch(tap: Layer | Norm, x: Tensor, y: Tensor) -> None:
        calls[tap.name] = calls.get(tap.name, 0) + 1
        if isinstance(tap, Layer):
            if tap.name in wanted:
                gave[id(y)] = (tap, y)
        elif id(x) in gave and x.shape[1] == tap.module.num_features:
            pairs.append((gave[id(x)][0], tap))

    (passed,) = engine.stream([batch], places, watch)
    pairs = [(a, b) for a, b in pairs if calls[a.name] == calls[b.name] == 1]

    def hold(some: Sequence[tuple[Layer, Norm]]) -> bool:
        """Whether these norms take up all that is added to what these layers give."""
        there = {tap.name: _moved(norm) for pair in some for tap in pair for norm in pair[1:]}

        def call(tap: Layer | Norm, run: object, x: Tensor) -> Tensor:
            by = there.get(tap.name)
            if by is not None and isinstance(tap, Norm):
                x = x - _as_channels(by, x)
            y: Tensor = run(x)  # type: ignore[operator]
            if by is not None and isinstance(tap, Layer):
                y = y + _as_channels(by, y)
            return y

        try:
            return alike(engine.probe(batch, places, call), passed.output)
        except FinepruningError:
            return False

    if pairs and not hold(pairs):
        pairs = [pair for pair in pairs if hold([pair])] if len(pairs) <= MOST else []
    for layer, norm in pairs:
        layer.norm = norm.module


MOST = 64
"""Pairs that are tried one by one, where they do not hold together."""


def fold_shifts(layers: Sequence[Layer]) -> dict[str, Tensor]:
    """Hand the biases that layers were lent to the batch norms behind them; by layer, what it
    was."""
    folded = {}
    for layer in layers:
        bias = layer.bias
        if layer.norm is None or bias is None:
            continue
        mean = layer.norm.running_mean
        mean.copy_(mean - bias.to(mean))
        folded[layer.name] = bias.detach().float().cpu()
        for module in (layer.module, *layer.tied):
            module._parameters[layer.bias_name] = None
    return folded


def _moved(norm: Norm) -> Tensor:
    """How far channels are moved to try: as far as they vary, this way and that."""
    spread = (norm.module.running_var + norm.module.eps).sqrt()
    generator = torch.Generator().manual_seed(0)
    signs = torch.rand(len(spread), generator=generator).to(spread) - 0.5
    return spread * signs


def _as_channels(by: Tensor, x: Tensor) -> Tensor:
    return by.to(x).view(1, -1, *[1] * (x.ndim - 2))
