"""Small layers with their evidence, in NumPy and PyTorch alike, for the tests of the core."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import torch

from finepruning.core.arrays import LowRank
from finepruning.core.evidence import Evidence, Sampled
from finepruning.core.moments import Marginals, Moments

GROUPS, OUTPUTS, INPUTS, SAMPLES = 2, 4, 6, 80
_RNG = np.random.default_rng(0)
W = _RNG.normal(size=(GROUPS, OUTPUTS, INPUTS))
X = _RNG.normal(size=(GROUPS, SAMPLES, INPUTS)) @ _RNG.normal(size=(GROUPS, INPUTS, INPUTS)) + 1
Y = X @ W.mT + 0.3 * _RNG.normal(size=(GROUPS, SAMPLES, OUTPUTS)) - 2


def joint(X: Any, Y: Any, positions: int = 0) -> Evidence:
    """The evidence of a layer that is called more than once: moments alone."""
    return Evidence(Marginals.of(X), Marginals.of(Y), positions, joint=Moments.of([(X, Y)]))


def sampled(X: Any, Y: Any, *weights: float, positions: int = 0) -> Evidence:
    """The evidence of a layer that is called once, in as many batches as there are ``weights``."""
    weights = weights or (1.0,)
    cuts = [X.shape[1] * i // len(weights) for i in range(len(weights) + 1)]
    batches = {}
    for i, weight in enumerate(weights):
        x, y = X[:, cuts[i] : cuts[i + 1]], Y[:, cuts[i] : cuts[i + 1]]
        count = x.shape[1]
        batches[i] = Sampled(
            (count, 1), np.arange(count), np.zeros(count), y, weight, lambda x=x: x
        )
    return Evidence(Marginals.of(X), Marginals.of(Y), positions, batches)


def in_torch(value: Any) -> Any:
    """The same array as a tensor that shares no memory with it; all else as it is."""
    return torch.from_numpy(value.copy()) if isinstance(value, np.ndarray) else value


def plain(value: Any) -> Any:
    """A value as a NumPy array, a low-rank covariance written out."""
    return np.asarray(value.dense() if isinstance(value, LowRank) else value)


def parts(value: Any) -> dict[str, Any]:
    """All numbers and arrays that a value holds, each by its path, as NumPy arrays."""
    if isinstance(value, LowRank):
        return {"F": plain(value.F)}
    if is_dataclass(value):
        inner: Any = {f.name: getattr(value, f.name) for f in fields(value)}
    elif isinstance(value, Mapping):
        inner = dict(sorted(value.items()))
    elif isinstance(value, tuple):
        inner = dict(enumerate(value))
    else:
        return {} if value is None or callable(value) else {"": plain(value)}
    return {f"{k}.{path}": v for k, held in inner.items() for path, v in parts(held).items()}


class Unchanged:
    """That what is done within leaves all arrays of some values bit for bit as they were."""

    def __init__(self, *values: Any) -> None:
        self.values = values

    def __enter__(self) -> None:
        self.before = copy.deepcopy(parts(self.values))

    def __exit__(self, *_: object) -> None:
        now = parts(self.values)
        assert now.keys() == self.before.keys()
        for path, value in now.items():
            assert value.dtype == self.before[path].dtype, path
            assert value.tobytes() == self.before[path].tobytes(), path


def close(mine: Any, wanted: Any, within: float = 1e-10) -> None:
    """That two values hold the same numbers, up to a share of the largest of each array."""
    a, b = parts(_dense(mine)), parts(_dense(wanted))
    assert a.keys() == b.keys()
    for path in a:
        assert a[path].shape == b[path].shape, path
        scale = max(1.0, float(np.abs(b[path]).max(initial=0)))
        np.testing.assert_allclose(a[path], b[path], rtol=0, atol=within * scale, err_msg=path)


def _dense(value: Any) -> Any:
    """The same with every covariance written out, so that both forms can be compared."""
    if isinstance(value, LowRank):
        return value.dense()
    if is_dataclass(value):
        return {f.name: _dense(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {key: _dense(held) for key, held in value.items()}
    return tuple(map(_dense, value)) if isinstance(value, tuple) else value
