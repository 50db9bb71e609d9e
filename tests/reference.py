"""A plain reference of the whole method: NumPy in float64, loops, one row and one patch at a time.

Written from the formulas in the package's docstrings and in docs/method.md. Nothing of the package
is imported: every constant of the method stands below as a number, so that whoever changes one
there has to change it here too. All samples go through the network at once, every position is used.
Modules that are never pruned (normalisation, activations, pooling) run as they are.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

Array = NDArray[Any]
Visit = Callable[[str, Array], None]

CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)

# Every constant of the method but those in `Settings`. tests/test_sensitivity.py changes each.
# Fit: stages of removal; steps before the first, after each, after the last.
QUICK_STAGES, QUICK_FIRST, QUICK_EACH, QUICK_LAST = 1, 0, 0, 5
THOROUGH_STAGES, THOROUGH_FIRST, THOROUGH_EACH, THOROUGH_LAST = 8, 2, 4, 8
THOROUGH_SHARE = 1.0  # of the layer's own forward pass, which a thorough fit may cost
RIDGE_FLOOR = 1e-6  # of the mean of diag(H), added to each ridge
REPAIR = 0.5  # exponent of the gain after a fit
LIMIT = 3.0  # of the gain, up and down
# Plan.
NARROW = 16  # inputs an output; layers with fewer are left whole,
SPARED = 1 / 3  # where they all take no more than this share of what is kept
# Batch norms.
MOVED = 0.035  # variances that the means have moved by, that another device may be behind
THIRD = 3  # the middle one of so many parts of the norms is looked at
TRACED_TOO = False  # whether the first sample, which is traced, counts twice there
# Neighbours.
MOST_NEIGHBOURS = 10  # asked at most, and fewer samples than this and one are not looked at
DISAGREE, AGREE = 0.8, 0.9  # shares of the same answer that count nothing, and in full
SET = 512  # samples that are looked at together
SETTLE_STEPS, SETTLED = 100, 1e-4  # iterations at most, and the change that ends them
# Read-out.
COOLEST, HOTTEST, HEATS = 0.5, 2.5, 8  # temperatures tried, in equal ratios
CLEAR, SLOPE, GROWTH = 0.37, 3.2, 0.25  # of the usual clearness, and nats for what is above
ROOT = 0.75  # power of a class's samples
LITTLE, FULL = 0.4, 1.3  # skew in logits, up to which nothing is changed and from which all is
GENTLEST = 1.25  # the shift is the log prior times the temperature, or this if that is more
ROUNDS = 10  # in which samples go over to classes that stay
EM_STEPS = 30  # of expectation-maximisation
FEW_SAMPLES, MOST_SAMPLES = 512, 2048  # looked at for the skew, and for the rest
CLOSED = -1e4  # shift of a class that never comes up, as the user says
# The published rule.
PAPER_STEPS = 7


@dataclass(frozen=True)
class Settings:
    """What a caller may choose; the defaults are the package's."""

    sparsity: float = 0.7
    effort: str = "best"
    readout: bool = True
    ridge: float = 0.3
    planned: float = 0.3
    norms: float = 0.0
    neighbours: float = 0.5
    classes: tuple[int, ...] | None = None


def array(value: torch.Tensor | None) -> Array | None:
    return None if value is None else value.detach().double().numpy().copy()


@dataclass
class Weight:
    """``W`` ``(G, O, D)`` and bias ``(G, O)`` of one prunable layer."""

    W: Array
    b: Array

    def __call__(self, X: Array) -> Array:
        """Outputs ``(G, N, O)`` for inputs ``(G, N, D)``."""
        return np.stack([X[g] @ self.W[g].T + self.b[g] for g in range(len(self.W))])


def conv_patches(m: Any, x: Array) -> tuple[Array, tuple[int, ...]]:
    """The inputs ``(G, N, D)`` of every output position, sample by sample; the output size."""
    sides = []
    for k, d, p in zip(
        m.kernel_size,
        m.dilation,
        m.padding if isinstance(m.padding, tuple) else [m.padding] * len(m.kernel_size),
        strict=True,
    ):
        total = {"same": d * (k - 1), "valid": 0}.get(p, 0) if isinstance(p, str) else 2 * p
        sides.append((total // 2, total - total // 2))
    mode = {"zeros": "constant", "replicate": "edge", "circular": "wrap"}.get(m.padding_mode)
    x = np.pad(x, [(0, 0), (0, 0), *sides], mode=mode or m.padding_mode)
    out = tuple(
        (size - d * (k - 1) - 1) // s + 1
        for size, k, s, d in zip(x.shape[2:], m.kernel_size, m.stride, m.dilation, strict=True)
    )
    width = x.shape[1] // m.groups
    patches = []
    for place in product(*map(range, out)):
        window = tuple(
            slice(p * s, p * s + d * (k - 1) + 1, d)
            for p, s, k, d in zip(place, m.stride, m.kernel_size, m.dilation, strict=True)
        )
        seen = x[(slice(None), slice(None), *window)]
        patches.append(
            [seen[:, g * width : (g + 1) * width].reshape(len(x), -1) for g in range(m.groups)]
        )
    # (positions, groups, samples, D) -> (groups, samples * positions, D)
    return np.array(patches).transpose(1, 2, 0, 3).reshape(m.groups, -1, len(patches[0][0][0])), out


class Network:
    """A module taken apart into NumPy weights; ``left_alone`` names layers not to be touched."""

    def __init__(self, model: nn.Module, left_alone: tuple[str, ...] = ()) -> None:
        self.model = model
        self.follow = 0.0
        """Share of the inputs' statistics that each batch norm takes over as it is called."""
        self.moved: dict[str, float] = {}
        """How far the means have moved, in variances, at each batch norm that was called."""
        self.weights: dict[str, Weight] = {}
        self.owners: dict[int, str] = {}
        self.free: set[str] = set()
        """Layers the mean of whose outputs can be moved: by a bias, or by the batch norm behind."""
        self.gave: dict[int, tuple[str, Array]] = {}
        skipped: set[int] = set()
        inside = {m.out_proj for m in model.modules() if isinstance(m, nn.MultiheadAttention)}
        for name, m in model.named_modules():
            if m in inside or id(getattr(m, "weight", None)) in skipped:
                continue
            if name in left_alone:
                skipped.add(id(m.weight))
                continue
            if isinstance(m, nn.MultiheadAttention):
                biases = [None] * 3 if m.in_proj_bias is None else m.in_proj_bias.chunk(3)
                for part, W, b in zip("qkv", m.in_proj_weight.chunk(3), biases, strict=True):
                    self._own(f"{name}.{part}", W[None], b)
                self._own(f"{name}.out_proj", m.out_proj.weight[None], m.out_proj.bias)
                continue
            prunable = isinstance(m, (nn.Linear, *CONVS)) or type(m).__name__ == "Conv1D"
            if prunable and id(m.weight) not in self.owners:
                self.owners[id(m.weight)] = name
                groups = getattr(m, "groups", 1)
                W = m.weight.T if type(m).__name__ == "Conv1D" else m.weight
                self._own(name, W.reshape(groups, W.shape[0] // groups, -1), m.bias)

    def _own(self, name: str, W: torch.Tensor, b: torch.Tensor | None) -> None:
        if b is not None:
            self.free.add(name)
        bias = np.zeros(W.shape[:2]) if b is None else array(b).reshape(W.shape[:2])
        self.weights[name] = Weight(array(W), bias)

    @property
    def total(self) -> int:
        return sum(w.W.size for w in self.weights.values())

    @property
    def zeros(self) -> int:
        return sum(int((w.W == 0).sum()) for w in self.weights.values())

    def forward(self, x: Any, visit: Visit = lambda name, X: None) -> Array:
        """The output for ``x``; ``visit(name, X)`` before each call of a prunable layer."""
        self.visit = visit
        return self.call("", x) if not isinstance(x, dict) else self.call("", **x)

    def call(self, name: str, *args: Any, **kwargs: Any) -> Array:
        m = self.model.get_submodule(name)
        inner = f"{name}." if name else ""
        if hasattr(m, "plain"):  # a network of the tests says itself how its parts are joined
            return m.plain(lambda part, *a, **k: self.call(inner + part, *a, **k), *args, **kwargs)
        if isinstance(m, nn.Sequential):
            x = args[0]
            for part, _ in m.named_children():
                x = self.call(inner + part, x)
            return x
        if isinstance(m, nn.MultiheadAttention):
            return self._attention(m, inner, *args, **kwargs)
        if isinstance(m, nn.TransformerEncoderLayer):
            return self._encoder(m, inner, *args, **kwargs)
        owner = self.owners.get(id(getattr(m, "weight", None)))
        if owner is not None and isinstance(m, CONVS):
            X, out = conv_patches(m, args[0])
            Y = self._product(owner, X)  # (G, samples * positions, O)
            Y = Y.reshape(len(Y), len(args[0]), -1, Y.shape[2]).transpose(1, 0, 3, 2)
            Y = Y.reshape(len(args[0]), -1, *out)
            self.gave[id(Y)] = owner, Y
            return Y
        if owner is not None:
            return self._linear(owner, args[0])
        if isinstance(m, nn.modules.batchnorm._BatchNorm) and args[0].ndim > 2:
            self._watch_norm(name, m, args[0])
        with torch.no_grad():
            result = m(*(torch.from_numpy(a) if isinstance(a, np.ndarray) else a for a in args))
        return result.numpy()

    def _watch_norm(self, name: str, m: Any, x: Array) -> None:
        if id(x) in self.gave:
            self.free.add(self.gave[id(x)][0])
        if TRACED_TOO and not self.follow:
            x = np.concatenate([x[:1], x])
        channels = np.moveaxis(x, 1, 0).reshape(x.shape[1], -1)
        mean, variance = channels.mean(1), channels.var(1)
        old_mean, old_variance = array(m.running_mean), array(m.running_var)
        chance = np.array([sample.reshape(len(sample), -1).mean(1) for sample in x]).var(0)
        shift = (mean - old_mean) ** 2 - chance / (len(x) - 1)
        self.moved[name] = float(np.mean(shift / (old_variance + m.eps)))
        for held, now in ((m.running_mean, mean), (m.running_var, variance)):
            held.copy_((1 - self.follow) * held + self.follow * torch.from_numpy(now))

    def _product(self, name: str, X: Array) -> Array:
        self.visit(name, X)
        return self.weights[name](X)

    def _linear(self, name: str, x: Array) -> Array:
        Y = self._product(name, x.reshape(1, -1, x.shape[-1]))
        return Y.reshape(*x.shape[:-1], -1)

    def _attention(
        self,
        m: nn.MultiheadAttention,
        inner: str,
        query: Array,
        key: Array,
        value: Array,
        key_padding_mask: Array | None = None,
        attn_mask: Array | None = None,
    ) -> Array:
        """Head by head, sample by sample. Masks are boolean (true: not seen) or added."""
        if not m.batch_first:
            query, key, value = (t.swapaxes(0, 1) for t in (query, key, value))
        q, k, v = (
            self._linear(inner + part, t)
            for part, t in zip("qkv", (query, key, value), strict=True)
        )
        joined = np.zeros_like(q)
        width = q.shape[-1] // m.num_heads
        for i, h in product(range(len(q)), range(m.num_heads)):
            part = slice(h * width, (h + 1) * width)
            scores = q[i, :, part] @ k[i, :, part].T / np.sqrt(width)
            masks = [attn_mask, None if key_padding_mask is None else key_padding_mask[i][None]]
            if attn_mask is not None and attn_mask.ndim == 3:
                masks[0] = attn_mask[i * m.num_heads + h]
            for mask in masks:
                if mask is not None and mask.dtype == bool:
                    scores = np.where(mask, -np.inf, scores)
                elif mask is not None:
                    scores = scores + mask
            e = np.exp(scores - scores.max(1, keepdims=True))
            joined[i, :, part] = e / e.sum(1, keepdims=True) @ v[i, :, part]
        out = self._linear(inner + "out_proj", joined)
        return out if m.batch_first else out.swapaxes(0, 1)

    def _encoder(self, m: nn.TransformerEncoderLayer, inner: str, x: Array, **masks: Any) -> Array:
        def attend(x: Array) -> Array:
            return self.call(inner + "self_attn", x, x, x, **masks)

        def feed(x: Array) -> Array:
            x = self.call(inner + "linear1", x)
            return self.call(inner + "linear2", m.activation(torch.from_numpy(x)).numpy())

        if m.norm_first:
            x = x + attend(self.call(inner + "norm1", x))
            return x + feed(self.call(inner + "norm2", x))
        x = self.call(inner + "norm1", x + attend(x))
        return self.call(inner + "norm2", x + feed(x))


@dataclass
class Outcome:
    """What the reference made of a network."""

    network: Network
    errors: dict[str, float] = field(default_factory=dict)
    answer: Readout | None = None
    moved: float = 0.0
    """How far the means of the middle batch norms have moved."""
    shown: bool = False
    followed: bool = False
    """Whether the batch norms follow the person."""
    agreement: Agreement | None = None


def personalize(
    model: nn.Module,
    x: Any,
    settings: Settings,
    *,
    head: str | None = None,
    left_alone: tuple[str, ...] = (),
) -> Outcome:
    """Personalise ``model`` on the inputs ``x``; ``head`` is the layer that gives the logits."""
    net = Network(copy.deepcopy(model), left_alone)
    outcome = Outcome(net)
    if settings.effort != "paper":
        net.forward(x)
        names = [n for n, _ in model.named_modules() if n in net.moved]
        if any(net.model.get_submodule(n).running_mean.any() for n in names):  # not folded away
            middle = names[len(names) // THIRD : len(names) - len(names) // THIRD]
            outcome.moved = float(np.mean([net.moved[n] for n in middle]))
            outcome.shown = outcome.moved > MOVED
            outcome.followed = settings.norms > 0
        if outcome.followed:
            net.follow = settings.norms
            net.forward(x)
            net.follow = 0.0
    calls: dict[str, list[tuple[Array, Array]]] = defaultdict(list)
    logits = net.forward(x, lambda name, X: calls[name].append((X, net.weights[name](X))))
    for name in [n for n in net.weights if n not in calls]:
        net.weights.pop(name)
    keep = int(np.floor(net.total * (1 - settings.sparsity) + 1e-9))
    dense = {
        name: (np.concatenate([X for X, _ in xy], 1), np.concatenate([Y for _, Y in xy], 1))
        for name, xy in calls.items()
    }
    if settings.effort == "paper":
        by_activity(net, x, keep)
        return outcome

    shift = silent = None
    if settings.readout and head is not None:
        said = logits.astype(np.float32).astype(np.float64)
        inside = [*(settings.classes or range(said.shape[1]))]
        outcome.answer = read_out(said[:, inside])
        shift = np.full(said.shape[1], CLOSED)
        shift[inside] = outcome.answer.shift
        if settings.classes:
            silent = ~np.isin(np.arange(len(shift)), inside)
    keeps = plan(net, dense, keep, settings.planned, {head: silent})
    done: set[str] = set()

    def visit(name: str, X: Array) -> None:
        if name in done:
            return
        done.add(name)
        if len(calls[name]) > 1:  # called several times: judged by all the dense calls
            X = dense[name][0]
        if name == head and shift is not None and settings.effort == "best":
            q = dense[name][1][0] + shift
            change, outcome.agreement = neighbours(q, X[0], settings.neighbours)
            dense[name] = dense[name][0], dense[name][1] + change
        rows = silent if name == head else None
        given = net.weights[name].W, dense[name], X, keeps[name], rows, name in net.free
        if settings.effort == "best":
            fitted = compensate(*given, settings.ridge)
        else:
            fitted = rescale(*given)
        net.weights[name], outcome.errors[name] = fitted

    net.forward(x, visit)
    if shift is not None and head is not None:
        net.weights[head].b += shift
    return outcome


def largest(scores: Array, count: int) -> Array:
    """Mask of the ``count`` largest scores; of equal ones the first stay."""
    order = sorted(range(scores.size), key=lambda i: -scores.flat[i])  # stable
    mask = np.zeros(scores.size, dtype=bool)
    mask[order[: max(count, 0)]] = True
    return mask.reshape(scores.shape)


def plan(
    net: Network,
    dense: dict[str, tuple[Array, Array]],
    keep: int,
    planned: float,
    silent: dict[Any, Array | None],
) -> dict[str, int]:
    """Weights that each layer keeps: energies over the whole network, tempered by ``planned``."""
    energies = {}
    for name, w in net.weights.items():
        X, Y = dense[name]
        power = X.var(1) if name in net.free else (X**2).mean(1)
        energy = w.W**2 * power[:, None, :] / (Y.var(1).sum() or 1)
        dead = silent.get(name)
        energies[name] = energy if dead is None else energy[:, ~dead]
    narrow = {name: e.size for name, e in energies.items() if e.shape[2] < NARROW}
    if sum(narrow.values()) > SPARED * keep or len(narrow) == len(energies):
        narrow = {}
    energies = {name: e for name, e in energies.items() if name not in narrow}
    keep -= sum(narrow.values())
    mask = largest(np.concatenate([e.ravel() for e in energies.values()]), keep)
    pieces = np.split(mask, np.cumsum([e.size for e in energies.values()])[:-1])
    size = np.array([e.size for e in energies.values()])
    share = np.array([max(p.sum(), 1) / p.size for p in pieces]) ** planned
    full = np.zeros(len(size), dtype=bool)
    while True:  # layers whose share would pass 1 keep all, the rest is dealt out again
        if full.all():
            break
        scale = (keep - size[full].sum()) / (share * size)[~full].sum()
        more = ~full & (share * scale >= 1)
        if not more.any():
            break
        full |= more
    exact = np.where(full, size, share * (0 if full.all() else scale) * size)
    counts = np.maximum(np.floor(exact + 1e-9), 1).astype(int)
    for i in sorted(range(len(size)), key=lambda i: counts[i] - exact[i]):
        if counts.sum() < keep and counts[i] < size[i]:
            counts[i] += 1
    for i in sorted(range(len(size)), key=lambda i: -counts[i]):
        counts[i] -= min(max(counts.sum() - keep, 0), counts[i] - 1)
    return narrow | dict(zip(energies, counts.tolist(), strict=True))


def solve_row(w: Array, m: Array, H: Array, ridge: Array, target: Array, steps: int) -> Array:
    """Conjugate gradients, preconditioned by the diagonal, on the weights ``m`` of one row."""
    index = np.flatnonzero(m)
    A, b, v = (H + np.diag(ridge))[np.ix_(index, index)], target[index], w[index]
    r = b - A @ v
    z = r / np.diag(A)
    p = z
    for _ in range(steps):
        if not len(index) or r @ z == 0:
            break
        alpha = (r @ z) / (p @ A @ p)
        v = v + alpha * p
        after = r - alpha * (A @ p)
        z_after = after / np.diag(A)
        p = z_after + (after @ z_after) / (r @ z) * p
        r, z = after, z_after
    out = np.zeros_like(w)
    out[index] = v
    return out


def schedule(N: int, D: int) -> tuple[int, int, int, int]:
    """Stages and steps of a fit: thorough where its products with ``H``, ``D^2`` for each row, cost
    no more than the layer's own products, ``D`` for each row and position."""
    thorough = THOROUGH_STAGES, THOROUGH_FIRST, THOROUGH_EACH, THOROUGH_LAST
    stages, first, each, last = thorough
    # A product for every step, and one for what is left over at the start of each descent.
    products = first + each * (stages - 1) + last + stages + (first > 0)
    if products * D <= THOROUGH_SHARE * N:
        return thorough
    return QUICK_STAGES, QUICK_FIRST, QUICK_EACH, QUICK_LAST


def compensate(
    W: Array,
    dense: tuple[Array, Array],
    X: Array,
    keep: int,
    silent: Array | None,
    free: bool,
    ridge_factor: float,
) -> tuple[Weight, float]:
    """``best``: refit to the dense outputs, remove in stages, refit, half the gain, the mean.

    Where the mean is not ``free`` all moments are about zero.
    """
    Y = dense[1]
    N, (G, _, D) = X.shape[1], W.shape
    stages, first, each, after = schedule(N, D)
    live = np.ones(W.shape[1], dtype=bool) if silent is None else ~silent
    strength = ridge_factor * max(1, D / N)
    x, y = X.mean(1) * free, Y.mean(1) * free
    H = [(X[g] - x[g]).T @ (X[g] - x[g]) / N for g in range(G)]
    C = [(X[g] - x[g]).T @ (Y[g] - y[g]) / N for g in range(G)]
    ridge = [strength * np.diag(H[g]) + 1e-30 for g in range(G)]
    ridge = [r + RIDGE_FLOOR * np.diag(h).mean() for r, h in zip(ridge, H, strict=True)]

    def refit(V: Array, mask: Array, steps: int) -> Array:
        V = V.copy()
        for g, o in product(range(G), np.flatnonzero(live)):
            target = C[g][:, o] + W[g, o] * ridge[g]
            V[g, o] = solve_row(V[g, o] * mask[g, o], mask[g, o], H[g], ridge[g], target, steps)
        return V

    mask = np.broadcast_to(live[None, :, None], W.shape).copy()
    size = int(mask.sum())
    V = W * mask
    if keep >= size:
        V = refit(V, mask, after)
    else:
        if first:
            V = refit(V, mask, first)
        for stage in range(1, stages + 1):
            last = stage == stages
            count = keep if last else round(size * (keep / size) ** (stage / stages))
            cost = np.stack([V[g] ** 2 * (np.diag(H[g]) + ridge[g]) for g in range(G)]) + 1e-30
            mask = largest(np.where(mask, cost, 0), count) & mask
            V = refit(V * mask, mask, after if last else each)
    for g, o in product(range(G), np.flatnonzero(live)):
        wanted = ((Y[g, :, o] - y[g, o]) ** 2).mean()
        V[g, o] *= scale_of(V[g, o] @ H[g] @ V[g, o], wanted) ** REPAIR
    return with_mean(V, X, Y, live, free)


def rescale(
    W: Array,
    dense: tuple[Array, Array],
    X: Array,
    keep: int,
    silent: Array | None,
    free: bool,
) -> tuple[Weight, float]:
    """``fast``: the weights of most output energy stay; mean and variance are restored in full."""
    DX, Y = dense
    score = W**2 * (DX**2).mean(1)[:, None, :]
    if silent is not None:
        score[:, silent] = -1
    V = W * largest(score, keep)
    plain = Weight(V, np.zeros(V.shape[:2]))(X)
    for g, o in np.ndindex(*V.shape[:2]):
        now, wanted = plain[g, :, o], Y[g, :, o]
        now, wanted = (y - y.mean() * free for y in (now, wanted))
        V[g, o] *= scale_of((now**2).mean(), (wanted**2).mean())
    live = np.ones(V.shape[1], dtype=bool) if silent is None else ~silent
    return with_mean(V, X, Y, live, free)


def scale_of(now: float, wanted: float) -> float:
    return np.sqrt(np.clip((wanted + 1e-30) / (now + 1e-30), LIMIT**-2, LIMIT**2))


def with_mean(V: Array, X: Array, Y: Array, live: Array, free: bool) -> tuple[Weight, float]:
    """The bias that restores the mean outputs, where it is ``free``, and the share of variance that
    is then missed."""
    fitted = Weight(V, np.zeros(V.shape[:2]))
    fitted.b = (Y - fitted(X)).mean(1) * free
    missed = ((Y - fitted(X)) ** 2).mean(1)[:, live].sum()
    return fitted, missed / (Y.var(1)[:, live].sum() + 1e-30)


def by_activity(net: Network, x: Any, keep: int) -> None:
    """The published rule: ``|w| mean|x|``, in equal steps, over the whole network."""
    masks = {name: np.ones(w.W.shape, dtype=bool) for name, w in net.weights.items()}
    size = sum(m.size for m in masks.values())
    for step in range(1, PAPER_STEPS + 1):
        seen: dict[str, list[Array]] = defaultdict(list)
        net.forward(x, lambda name, X: seen[name].append(np.abs(X)))  # noqa: B023
        scores = [
            np.where(
                masks[name],
                np.abs(w.W) * np.concatenate(seen[name], 1).mean(1)[:, None, :],
                -1.0,
            )
            for name, w in net.weights.items()
        ]
        count = size - round((size - keep) * step / PAPER_STEPS)
        stay = largest(np.concatenate([s.ravel() for s in scores]), count)
        start = 0
        for name, w in net.weights.items():
            masks[name] = stay[start : start + w.W.size].reshape(w.W.shape)
            w.W = w.W * masks[name]
            start += w.W.size


@dataclass
class Agreement:
    """How far neighbours are believed: how many are asked, and what one of them weighs."""

    asked: int
    weight: float


def neighbours(q: Array, features: Array, most: float) -> tuple[Array, Agreement]:
    """What each sample's nearest add to its logits, where they answer alike."""
    n, message = len(q), np.zeros_like(q)
    if n <= MOST_NEIGHBOURS:
        return message, Agreement(0, 0.0)
    # Dealt at random, as cards are, into as few sets as there must be.
    order = np.random.default_rng(0).permutation(n).tolist()
    players = -(-n // SET)
    near: dict[int, list[int]] = {}
    for player in range(players):
        hand = sorted(order[player::players])
        f = [features[i] - features[hand].mean(0) for i in hand]
        f = [x / max(np.sqrt(x @ x), 1e-12) for x in f]
        for i, x in zip(hand, f, strict=True):
            cosine = {j: x @ y for j, y in zip(hand, f, strict=True) if j != i}
            near[i] = sorted(cosine, key=lambda j: -cosine[j])
    answer = q.argmax(1)
    best, found = 0.0, Agreement(0, 0.0)
    for k in range(1, MOST_NEIGHBOURS + 1):
        shares = [
            np.mean([answer[j] == c for i in np.flatnonzero(answer == c) for j in near[i][:k]])
            for c in set(answer)
        ]
        agree = np.mean(shares) if len(set(answer)) > 1 else 0.0
        w = most * min(1, max(0, (agree - DISAGREE) / (AGREE - DISAGREE)))
        if w * np.sqrt(k) > best:
            best, found = w * np.sqrt(k), Agreement(k, float(w))
    asks = [set(near[i][: found.asked]) for i in range(n)]
    for player in range(players if found.asked else 0):
        hand = order[player::players]
        z = {i: softmax(q[i]) for i in hand}
        heard = {i: {j: (j in asks[i]) + (i in asks[j]) for j in hand} for i in hand}
        heard = {i: {j: a for j, a in said.items() if a} for i, said in heard.items()}
        for _ in range(SETTLE_STEPS):
            for i in hand:
                message[i] = sum(found.weight * a / 2 * z[j] for j, a in heard[i].items())
            before, z = z, {i: softmax(q[i] + message[i]) for i in hand}
            if max(abs(z[i] - before[i]).max() for i in hand) < SETTLED:
                break
    return message, found


def softmax(a: Array) -> Array:
    e = np.exp(a - a.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def logistic(x: float) -> float:
    return float(1 / (1 + np.exp(-x))) if x > -700 else 0.0


@dataclass
class Readout:
    """Shift of the output bias, the trust in it, and how many classes samples are answered with."""

    shift: Array
    trust: float
    classes: int


def read_out(logits: Array) -> Readout:
    """Which classes the person has, from the dense network's logits ``(n, K)``."""

    def spread(count: int) -> Array:
        if len(logits) <= count:
            return logits
        return logits[[round(i * (len(logits) - 1) / (count - 1)) for i in range(count)]]

    def others(x: Array, T: float) -> tuple[float, float]:
        """Share of what is unseen; nats by which a sample is likelier given the others."""
        n, K = x.shape
        p, new = softmax(x / T), 0.5 / K + 0.5 * softmax(x / (2 * T)).mean(0)
        R, U = p.copy(), 0.5
        for _ in range(EM_STEPS):
            N, taken, missed = R.sum(0), np.zeros_like(R), 0.0
            for i in range(n):
                seen = (1 - U) * p[i] * (N - R[i]) / max(n - 1, 1)
                total = seen.sum() + U * (p[i] @ new)
                taken[i] = (seen + U * p[i] * new) / total
                missed += U * (p[i] @ new) / total
            R, U = taken, (missed + 1) / (n + 1)
        N, nats = R.sum(0), []
        for i in range(n):
            prior = (1 - U) * (N - R[i]) / max(n - 1, 1) + U * new
            nats.append(np.log(K * (p[i] @ prior)))
        return U, float(np.mean(nats))

    def clearness(p: Array) -> tuple[Array, Array]:
        """Mean nats by which a class's samples would miss it; how many these are."""
        nats: dict[int, list[float]] = {k: [] for k in range(p.shape[1])}
        for row in p:
            nats[int(row.argmax())].append(-np.log(1 - min(row.max(), 1 - 1e-9)))
        mean = [float(np.mean(v)) if v else 0.0 for v in nats.values()]
        return np.array(mean), np.array([len(v) for v in nats.values()])

    some, x = spread(FEW_SAMPLES), spread(MOST_SAMPLES)
    (n, K), p = x.shape, softmax(x)
    heats = [COOLEST * (HOTTEST / COOLEST) ** (i / (HEATS - 1)) for i in range(HEATS)]
    found = [others(some, T) for T in heats]
    best = max(range(HEATS), key=lambda i: found[i][1])
    T, (U, gain) = heats[best], found[best]
    mean = p.mean(0)
    skew = max(0.0, min(gain, np.log(K) + float(sum(q * np.log(q) for q in mean if q > 1e-300))))
    share = min(np.exp(-skew) + 1 / K, 1 - 1e-9)
    usual = float(np.mean([-np.log(1 - min(row.max(), 1 - 1e-9)) for row in p]))
    flat = clearness(p)
    odds = np.zeros(K)
    for step in range(ROUNDS + 1):
        R = np.array([softmax(np.log(np.maximum(row, 1e-300)) + odds) for row in p])
        clear, N = (np.maximum(a, b) for a, b in zip(clearness(R), flat, strict=True))
        weight = np.zeros(K)
        for k in range(K):
            nats = SLOPE * N[k] ** GROWTH * (clear[k] / max(usual, 1e-12) - CLEAR) if N[k] else 0.0
            weight[k] = logistic(nats + np.log(share / (1 - share))) * (N[k] + 1) ** ROOT
        prior = (1 - U) * weight / weight.sum() + U / K
        fresh = np.maximum(np.log(prior / prior.max()), -np.log(n))
        odds = fresh if step == 0 else (odds + fresh) / 2
    trust = min(max((max(T, 1.0) * skew - LITTLE) / (FULL - LITTLE), 0.0), 1.0)
    shift = trust * max(T, GENTLEST) * odds
    return Readout(shift, trust, len(set((x + shift).argmax(1).tolist())))
