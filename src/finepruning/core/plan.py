"""Plan: one budget of weights, spread over the layers by what was measured."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from .arrays import Matrix, like, top
from .evidence import Evidence
from .gains import saliency
from .options import number


@dataclass(frozen=True)
class PlanOptions:
    """How the budget is spread."""

    tempering: float = number(0.3, 0, 1)
    """0: every layer the same sparsity; 1: all by measured energy; between: a geometric mean."""
    narrow: int = number(16, 0)
    spared: float = number(1 / 3, 0, 1)
    """Layers whose outputs see fewer than ``narrow`` inputs each are left whole, where all of them
    take no more than this share of what is kept: there is little to lose in them, and much harm."""


DEFAULT = PlanOptions()


def plan(
    weights: Mapping[str, Matrix],
    evidence: Mapping[str, Evidence],
    silent: Mapping[str, Matrix],
    keep: int,
    options: PlanOptions = DEFAULT,
) -> dict[str, int]:
    """How many weights each layer keeps, of ``keep`` in all.

    ``weights`` are ``(G, O, D)``; ``silent`` names rows ``(O,)`` of some layers that hold none.
    """
    scores = {}
    for name, W in weights.items():
        seen = evidence[name]
        score = relative_saliency(W, like(seen.input_power, W), seen.outputs.variance)
        if name in silent:
            score = score[:, ~silent[name]]
        scores[name] = score if isinstance(score, np.ndarray) else score.cpu().numpy()
    whole = spared({name: score.shape for name, score in scores.items()}, keep, options)
    scores = {name: score for name, score in scores.items() if name not in whole}
    sizes = {name: score.size for name, score in scores.items()}
    keep -= sum(whole.values())
    return whole | spread(sizes, global_threshold(scores, keep), keep, options.tempering)


def spared(
    shapes: Mapping[str, tuple[int, ...]], keep: int, options: PlanOptions = DEFAULT
) -> dict[str, int]:
    """The layers that are left whole, of ``shapes`` ``(G, O, D)``, and how many weights they have:
    depthwise convolutions, and the first one of a picture or spectrogram with one channel.

    >>> spared({"depthwise": (64, 1, 9), "pointwise": (1, 64, 64)}, keep=2048)
    {'depthwise': 576}
    """
    narrow = {name: math.prod(s) for name, s in shapes.items() if s[2] < options.narrow}
    few = sum(narrow.values()) <= options.spared * keep and len(narrow) < len(shapes)
    return narrow if few else {}


def relative_saliency(W: Matrix, input_variance: Matrix, output_variance: Matrix) -> Matrix:
    """Share of the layer's output variance that each weight carries, ``(G, O, D)``.

    Relative, so that layers of different scale can be compared.
    """
    total = float(output_variance.sum())
    return saliency(W, input_variance) / (total if total > 0 else 1.0)


def global_threshold(scores: Mapping[str, np.ndarray], keep: int) -> dict[str, int]:
    """Weights each layer keeps when the ``keep`` largest scores of the whole network stay."""
    mask = top(np.concatenate([s.reshape(-1) for s in scores.values()]), keep)
    counts, start = {}, 0
    for name, s in scores.items():
        counts[name] = int(mask[start : start + s.size].sum())
        start += s.size
    return counts


def spread(
    sizes: Mapping[str, int], measured: Mapping[str, int], keep: int, planned: float
) -> dict[str, int]:
    """Weights each layer keeps: between the same share everywhere and the ``measured`` shares.

    A layer's share is proportional to ``measured_share ** planned``, at most 1, scaled so that the
    counts sum to ``keep`` exactly. No layer is emptied.

    >>> spread({"a": 10, "b": 10}, {"a": 8, "b": 2}, 10, planned=0.5)
    {'a': 7, 'b': 3}
    """
    names = list(sizes)
    size = np.array([sizes[n] for n in names], dtype=np.float64)
    share = np.array([max(measured[n], 1) / max(sizes[n], 1) for n in names]) ** planned
    low, high = 0.0, 1.0
    while (np.minimum(1, share * high) * size).sum() < min(keep, size.sum()) and high < 1e30:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        if (np.minimum(1, share * middle) * size).sum() < keep:
            low = middle
        else:
            high = middle
    exact = np.minimum(1, share * high) * size
    counts = np.clip(np.floor(exact), np.minimum(1, size), size)
    # Hand out what rounding left, largest remainder first, and take back what the floors added.
    for i in np.argsort(counts - exact, kind="stable"):
        if counts.sum() < keep and counts[i] < size[i]:
            counts[i] += 1
    for i in np.argsort(-counts, kind="stable"):
        excess = counts.sum() - keep
        if excess > 0:
            counts[i] -= min(excess, counts[i] - min(1, size[i]))
    return {n: int(c) for n, c in zip(names, counts, strict=True)}


def budget(total: int, sparsity: float) -> int:
    """Weights to keep so that at least ``sparsity`` of ``total`` are zero."""
    return total - math.ceil(total * sparsity - 1e-14 * total)  # less the product's rounding error
