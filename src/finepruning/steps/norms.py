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

from ..core.options import choice, number
from ..data.batches import Batch
from ..network.engine import Engine
from ..network.norms import ChannelMoments, Norm, norm_places


@dataclass(frozen=True)
class NormOptions:
    """When and how far batch norms follow the person."""

    follow: str = choice("shown", "never", "always")
    """``shown``: where another device seems to show. What seems so may be a person of few classes
    in a narrow corner of what the network knows: ``never`` is safe, and the report says where to
    follow may help; whoever knows of another device says ``always``."""
    share: float = number(0.25, 0, 1)
    """Of the person's statistics in those of norms that follow."""
    skewed: float = number(0.5, 0, 1)
    """Up to this trust in the read-out nothing shows that classes are missing."""
    moved: float = number(0.035, 0)
    """Mean squared shift, in variances, of the middle norms' means that another device is
    behind."""


@dataclass(frozen=True)
class Following:
    """Whether the batch norms follow the person, and why not."""

    applied: bool
    reason: str
    shown: bool
    """Whether it looks as if the data came from another device than the network's."""
    moved: float
    """How far the means in the middle third have moved on the dense network; 0 for none."""


def following(
    norms: Sequence[Norm],
    seen: Mapping[str, ChannelMoments],
    options: NormOptions,
    *,
    trust: float,
    padded: bool,
) -> Following:
    """Whether to normalise anew, from what was ``seen`` of the dense network's norms.

    ``trust`` is the read-out's: at 0 no class seems to be missing.
    """
    usable = [norm for norm in norms if norm.name in seen]
    third = len(usable) // 3
    middle = usable[third : len(usable) - third]
    moved = sum(norm.moved(seen[norm.name]) for norm in middle) / max(1, len(middle))
    able = bool(usable) and not padded
    shown = able and (trust <= options.skewed or moved > options.moved)
    if options.follow == "never" or not options.share:
        reason = "not asked for"
    elif not usable:
        reason = "there are none with statistics"
    elif padded:
        reason = "padding would count"
    elif options.follow == "shown" and not shown:
        reason = "no sign of another device"
    else:
        reason = ""
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
