"""Device shifts: what another camera does to an image, at three strengths.

Computed by kornia, but JPEG by Pillow, because kornia's differentiable codec does not quantise.
Images are ``(N, 3, H, W)`` between 0 and 1. Each image is changed by itself, with noise seeded by
its number, so that it looks the same whichever user holds it and however it is batched.
"""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

Shift = Callable[[Tensor, list[int]], Tensor]
"""``shift(images, numbers)``: the changed images."""

NOISE = (0.02, 0.03, 0.04)
"""Standard deviation of the sensor's noise, full scale being 1."""
DEFOCUS = (0.6, 0.75, 0.9)
"""Standard deviation of the blur, in pixels."""
CONTRAST = (0.6, 0.4, 0.25)
"""Share of the contrast that is left."""
JPEG = (50, 25, 12)
"""Quality of a further JPEG round trip."""


def _noise(images: Tensor, numbers: list[int], deviation: float) -> Tensor:
    noise = [
        torch.randn(x.shape, generator=torch.Generator().manual_seed(number))
        for x, number in zip(images, numbers, strict=True)
    ]
    return images + deviation * torch.stack(noise)


def _defocus(images: Tensor, numbers: list[int], deviation: float) -> Tensor:
    from kornia.filters import gaussian_blur2d

    return gaussian_blur2d(images, (7, 7), (deviation, deviation))


def _contrast(images: Tensor, numbers: list[int], share: float) -> Tensor:
    from kornia.enhance import adjust_contrast_with_mean_subtraction

    return torch.cat([adjust_contrast_with_mean_subtraction(x[None], share) for x in images])


def _jpeg(images: Tensor, numbers: list[int], quality: int) -> Tensor:
    pixels = (images * 255).round().byte().permute(0, 2, 3, 1).numpy()
    return torch.stack([_round_trip(x, quality) for x in pixels])


def _round_trip(pixels: NDArray[np.uint8], quality: int) -> Tensor:
    """Pixels ``(H, W, 3)`` through a JPEG file, ``(3, H, W)`` between 0 and 1."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    with Image.open(file) as image:
        return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255


KINDS: dict[str, tuple[Callable[..., Tensor], tuple[float, ...]]] = {
    "noise": (_noise, NOISE),
    "defocus": (_defocus, DEFOCUS),
    "low contrast": (_contrast, CONTRAST),
    "JPEG": (_jpeg, JPEG),
}


def camera(kind: str, strength: float) -> Shift:
    """A kind of shift at any strength."""
    change, _ = KINDS[kind]

    def shift(images: Tensor, numbers: list[int]) -> Tensor:
        changed = change(images, numbers, strength).clamp(0, 1)
        return (changed * 255).round() / 255  # a camera's file has 8 bits

    return shift


def shifts() -> dict[str, Shift]:
    """All shifts by name: the images as they are, then four kinds at three strengths."""
    found: dict[str, Shift] = {"as they are": lambda images, numbers: images}
    for kind, (_, strengths) in KINDS.items():
        for level, strength in enumerate(strengths, 1):
            found[f"{kind} {level}"] = camera(kind, strength)
    return found
