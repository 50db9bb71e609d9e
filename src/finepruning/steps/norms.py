"""Normalise anew: batch norms whose statistics are those of somebody else's camera or voice.

A batch norm subtracts the mean and divides by the deviation that its inputs had in training. On
another device, or for another voice, they are others, and the network errs. But they are others
too where a person has few of the classes, and to follow them there loses what tells these classes
apart. Which it is shows in the middle of the network: there another device moves the means, and
few classes do not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

from torch import Tensor

from ..core.options import number
from ..data.batches import Batch
from ..network.engine import Engine
from ..network.norms import ChannelMoments, Norm, norm_places


@dataclass(frozen=True)
class NormOptions:
    """How far batch norms follow the person.

    What looks like another device may be a person of few classes in a narrow corner of what the
    network knows, and no label-free test tells the two apart: to follow is the user's choice, and
    the report says where it may help.
    """

    share: float = number(0.0, 0, 1)
    """Of the person's statistics in those of norms that follow; 0: none follows. 0.25 is a good
    share on another device."""
    moved: float = number(0.035, 0)
    """Mean squared shift, in variances, of the middle norms' means from which it may help."""


@dataclass(frozen=True)
class Following:
    """Whether the batch norms follow the person, and why not."""

    applied: bool
    reason: str
    shown: bool
    """Whether the data may have come from another device than the network's."""
    moved: float
    """How far the means in the middle third have moved on the dense network; 0 for none."""


def following(
    norms: Sequence[Norm],
    seen: Mapping[str, ChannelMoments],
    options: NormOptions,
    *,
    padded: bool,
) -> Following:
    """Whether to normalise anew, and what was ``seen`` of the dense network's norms."""
    usable = [norm for norm in norms if norm.name in seen]
    third = len(usable) // 3
    middle = usable[third : len(usable) - third]
    moved = sum(norm.moved(seen[norm.name]) for norm in middle) / max(1, len(middle))
    able = bool(usable) and not padded
    shown = able and moved > options.moved
    if not options.share:
        reason = "not asked for"
    elif not usable:
        reason = "there are none with statistics"
    else:
        reason = "padding would count" if padded else ""
    return Following(not reason, reason, shown, moved)


def normalise_anew(
    engine: Engine, norms: Sequence[Norm], calibration: Sequence[Batch], share: float
) -> None:
    """One forward pass, all samples in lock-step: each norm follows what the ones before it give.

    The engine's network is changed; ``share`` of the new statistics is the person's.
    """

    def visit(norm: Norm, inputs: dict[int, Tensor]) -> None:
        seen = reduce(ChannelMoments.merge, map(ChannelMoments.of, inputs.values()))
        norm.follow(seen, share)

    engine.lock_step(calibration, norm_places(norms), visit)
