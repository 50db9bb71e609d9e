"""Two kinds of signal that are simulated, and small networks trained on them from scratch.

*Wearable*: three accelerations and three turning rates at 50 Hz, in windows of 128, of six
activities. Every person has a pace, a strength, a gait, a noise and a way of wearing the sensor.
*Beats*: one lead at 150 Hz, windows of 160 around a heart beat, of seven kinds. Every person has a
shape of the beat and few kinds besides a main rhythm, which is most of it; the training frequencies
are as unequal. Both are made up, so that none of it is anybody's: the point is only that people
differ, and that classes are rare and alike in different ways.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Signals:
    """Samples ``(n, channels, T)``, the class of each and who it is of."""

    x: Tensor
    labels: Tensor
    person: Tensor


# --- Wearable

ACTIVITIES = ("lying", "sitting", "standing", "walking", "upstairs", "downstairs")
RATE, WINDOW = 50, 128
POSTURE = ((0.1, 0.2, 0.97), (0.55, 0.1, 0.83), (0.97, 0.1, 0.2)) + ((0.97, 0.1, 0.2),) * 3
"""Where gravity points, for a sensor that is worn as it should be."""
PACE = (0.0, 0.0, 0.0, 1.9, 1.65, 2.1)
"""Steps a second."""
STRENGTH = (0.0, 0.0, 0.0, 0.35, 0.32, 0.5)
HARMONICS = (
    ((1.0, 0.5, 0.2), (0.4, 0.3, 0.1), (0.5, 0.2, 0.1)),
    ((0.8, 0.3, 0.1), (0.5, 0.2, 0.1), (0.9, 0.3, 0.1)),
    ((1.0, 0.8, 0.5), (0.4, 0.4, 0.3), (0.4, 0.4, 0.3)),
)
"""Of each gait, each axis: how strong the step and its multiples are."""


def _turn(rng: Generator, spread: float) -> Floats:
    """A rotation by a random angle around a random axis."""
    axis = rng.normal(size=3)
    axis, angle = axis / np.linalg.norm(axis), rng.normal(0, spread)
    cross = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    return np.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * cross @ cross


def _worn(rng: Generator, counts: list[int]) -> tuple[Floats, list[int]]:
    """One person's windows ``(n, 6, T)``: ``counts`` of each activity."""
    worn, t = _turn(rng, 0.2), np.arange(WINDOW) / RATE
    pace, strength = rng.lognormal(0, 0.11), rng.lognormal(0, 0.3)
    gait = rng.lognormal(0, 0.4, (3, 3, 3))
    phase = np.arange(27).reshape(3, 3, 3) + rng.normal(0, 0.9, (3, 3, 3))
    posture = [np.array(p) + rng.normal(0, 0.08, 3) for p in POSTURE]
    noise, restless = 0.03 * rng.lognormal(0, 0.4), 0.03 * rng.lognormal(0, 0.5)
    windows, labels = [], []
    for activity, count in enumerate(counts):
        for _ in range(count):
            g = posture[activity] + rng.normal(0, 0.11, 3)
            a = np.repeat((g / np.linalg.norm(g))[:, None], WINDOW, 1)
            w = np.zeros((3, WINDOW))
            drift = np.cumsum(rng.normal(0, restless / 5, (3, WINDOW)), 1)
            a, w = a + drift, w + rng.normal(0, restless, (3, WINDOW))
            if activity >= 3:
                kind, f = activity - 3, PACE[activity] * pace * rng.lognormal(0, 0.05)
                level = STRENGTH[activity] * strength * rng.lognormal(0, 0.15)
                start = rng.uniform(0, 2 * math.pi)
                for axis in range(3):
                    for multiple in range(3):
                        turn = (multiple + 1) * (2 * math.pi * f * t + start)
                        size = level * HARMONICS[kind][axis][multiple] * gait[kind, axis, multiple]
                        a[axis] += size * np.sin(turn + phase[kind, axis, multiple])
                        w[axis] += 1.5 * size * np.cos(turn / 2 + phase[kind, axis, multiple])
            x = np.concatenate([worn @ a, worn @ w])
            windows.append(x + rng.normal(0, noise, x.shape))
            labels.append(activity)
    return np.stack(windows), labels


def wearable(people: int, seed: int, each: int = 100) -> Signals:
    """Windows of so many people, ``each`` of every activity."""
    return _gathered(people, seed, lambda rng: _worn(rng, [each] * len(ACTIVITIES)))


# --- Beats

BEATS = ("normal", "ventricular", "atrial", "fusion", "left block", "right block", "escape")
OFTEN = (0.4, 0.35, 0.3, 0.1, 0.08, 0.12, 0.05)
"""How likely each is, beside the main rhythm."""
BEAT_RATE, BEAT = 150, 160


def _bump(t: Floats, at: float, width: float) -> Floats:
    return np.exp(-(((t - at) / width) ** 2) / 2)


def _heart(rng: Generator, count: int) -> tuple[Floats, list[int]]:
    """One person's beats ``(count, 1, T)``, as they come."""
    t = (np.arange(BEAT) - BEAT / 2) / BEAT_RATE
    main = int(rng.choice([0, 4, 5], p=[0.84, 0.08, 0.08]))
    others = [k for k in range(len(BEATS)) if k != main and OFTEN[k]]
    weight = np.array([OFTEN[k] for k in others])
    some = rng.choice(others, rng.integers(2, 5), replace=False, p=weight / weight.sum())
    rest = 1 - rng.uniform(0.7, 0.9)
    share = np.maximum(rest * rng.dirichlet(np.full(len(some), 0.8)), 0.012)
    kinds = [main, *some.tolist()]
    labels = rng.choice(kinds, count, p=[1 - share.sum(), *share]).tolist()
    body = {
        "p": 0.14 * rng.lognormal(0, 0.35), "q": 0.1 * rng.lognormal(0, 0.4),
        "r": rng.lognormal(0, 0.25), "s": 0.2 * rng.lognormal(0, 0.5),
        "t": 0.3 * rng.lognormal(0, 0.35) * (1 if rng.random() < 0.9 else -1),
        "wide": rng.lognormal(0, 0.12), "pr": rng.normal(0.16, 0.015), "qt": rng.normal(0.28, 0.02),
        "v": rng.normal(1.3, 0.3) * (1 if rng.random() < 0.7 else -1), "early": rng.normal(1, 0.15),
    }  # fmt: skip
    noise, sway = 0.08 * rng.lognormal(0, 0.5), 0.06 * rng.lognormal(0, 0.5)
    beats = []
    for kind in labels:
        x = _beat(rng, t, kind, body) * rng.lognormal(0, 0.05)
        x = x + sway * np.sin(2 * math.pi * (0.3 * t + rng.random()))
        beats.append((x + rng.normal(0, noise, BEAT))[None])
    return np.stack(beats), labels


def _beat(rng: Generator, t: Floats, kind: int, body: dict[str, float]) -> Floats:
    """One beat: bumps of P, Q, R, S and T, and the end of the beat before it where that is near."""
    b = body
    w = 0.012 * b["wide"] * rng.lognormal(0, 0.06)
    pr, qt = b["pr"] + rng.normal(0, 0.01), b["qt"] + rng.normal(0, 0.01)
    qs = b["q"] * _bump(t, -2.2 * w, w) + b["s"] * _bump(t, 2.4 * w, w)
    normal = b["r"] * _bump(t, 0, w) - qs
    tail = b["t"] * rng.lognormal(0, 0.1) * _bump(t, qt, 0.05)
    atrium = b["p"] * rng.lognormal(0, 0.15) * _bump(t, -pr, 0.025)
    after = 0.35 * _bump(t, 0.13, 0.05) + 0.2 * _bump(t, 0.27, 0.06)
    wide = b["v"] * (_bump(t, 0.01, 4 * w) - after)
    if kind == 1:
        return wide * rng.lognormal(0, 0.1)
    if kind == 2:  # as a normal beat, but early, behind another P: the T before it is near
        near = -0.53 + 0.06 * b["early"] * rng.normal(0, 1)
        odd = 0.8 * b["p"] * _bump(t, -pr + 0.015 * b["early"], 0.02)
        return normal + tail + odd + 0.6 * b["t"] * _bump(t, near, 0.05)
    if kind == 3:
        mix = rng.uniform(0.3, 1.0)
        return mix * (normal + tail) + (1 - mix) * wide + atrium
    if kind == 4:
        apart = rng.uniform(0.015, 0.035)
        notched = 0.8 * b["r"] * (_bump(t, -apart, 1.6 * w) + _bump(t, apart, 1.6 * w))
        return notched + atrium + rng.uniform(-0.8, 0.2) * tail
    if kind == 5:
        second = rng.uniform(0, 0.5) * b["r"] * _bump(t, 0.055, 1.6 * w)
        return normal + second + atrium + tail
    if kind == 6:  # a weak P wave, or none
        return 0.95 * normal + tail + rng.uniform(0, 0.7) * atrium
    return normal + tail + atrium


def beats(people: int, seed: int, each: int = 1500) -> Signals:
    """Beats of so many people, ``each`` of everyone."""
    return _gathered(people, seed, lambda rng: _heart(rng, each))


def _gathered(
    people: int, seed: int, one: Callable[[Generator], tuple[Floats, list[int]]]
) -> Signals:
    """All people's samples; each person has a generator of their own."""
    x, labels, person = [], [], []
    for i in range(people):
        found, said = one(np.random.default_rng([seed, i]))
        x.append(torch.from_numpy(found).float())
        labels += said
        person += [i] * len(said)
    return Signals(torch.cat(x), torch.tensor(labels), torch.tensor(person))


# --- Another device


def other_device(x: Tensor, kind: str) -> Tensor:
    """The same signals from another device: a slower filter, another gain, an offset, or noise."""
    if kind == "filter":
        kernel = torch.tensor([0.25, 0.5, 0.25]).repeat(x.shape[1], 1, 1)
        for _ in range(8):
            x = F.conv1d(F.pad(x, (1, 1), mode="replicate"), kernel, groups=x.shape[1])
        return x
    spread = x.std((0, 2), keepdim=True)
    if kind == "gain":
        return 2 * x
    if kind == "offset":
        return x + 0.6 * spread
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    return x + 0.5 * spread * noise


DEVICES = ("filter", "gain", "offset", "noise")


# --- Networks


class SignalNet(nn.Sequential):
    """Convolutions over time with BatchNorm, the mean over time, and a linear layer."""

    def __init__(self, channels: int, classes: int, width: int, layers: int) -> None:
        parts: list[nn.Module] = []
        for i in range(layers):
            size = width * 2 ** (i // 2)
            parts += [
                nn.Conv1d(channels, size, 7, 2, 3, bias=False), nn.BatchNorm1d(size), nn.ReLU()
            ]  # fmt: skip
            channels = size
        head = nn.Linear(channels, classes)
        super().__init__(*parts, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Dropout(0.2), head)


KINDS: dict[str, tuple[Callable[..., Signals], Callable[[], nn.Module]]] = {
    "wearable": (wearable, lambda: SignalNet(6, len(ACTIVITIES), 32, 4)),
    "beats": (beats, lambda: SignalNet(1, len(BEATS), 24, 5)),
}
SEEDS = {"train": 1, "people": 2}
