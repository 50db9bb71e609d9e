"""Samples of the panel's networks, and photos among them: from the usual camera and from others."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from networks import need
from panel_kinds import CLEAN, PHOTOS
from shifts import camera
from torch import Tensor
from users import dogs

from finepruning import Preprocess
from finepruning.research import find_images, read_image


@dataclass(frozen=True)
class Samples:
    """Samples of a pool with their truth."""

    x: Any
    """What gives inputs ``(n, ...)`` for numbers; None where there are only logits."""
    labels: Tensor
    person: Tensor | None = None
    half: Tensor | None = None
    known: tuple[Tensor, Tensor] | None = None
    """Logits and features, where these are given instead of samples."""


CAMERA = {"noise": 0.1, "defocus": 2.0, "low contrast": 0.3}
"""Another camera, for photos of 224 pixels."""


class Photos:
    """Photos as a network wants them, perhaps from another camera, decoded when asked for."""

    def __init__(self, paths: list[Path], preprocess: Preprocess, shift: str = "") -> None:
        self.paths, self.preprocess, self.shift = paths, preprocess, shift

    def __getitem__(self, index: Tensor) -> Tensor:
        with ThreadPoolExecutor(2) as threads:
            x = torch.stack([*threads.map(self._decoded, index.tolist())])
        if not self.shift:
            return x
        p = self.preprocess
        mean, std = (torch.tensor(v)[:, None, None] for v in (p.mean, p.std))
        pixels = (x * std + mean).clamp(0, 1)
        changed = camera(self.shift, CAMERA[self.shift])(pixels, index.tolist())
        return (changed - mean) / std

    def _decoded(self, number: int) -> Tensor:
        return self.preprocess(read_image(self.paths[number]))


def photo_pools(name: str, preprocess: Preprocess) -> Iterator[tuple[str, Samples]]:
    """The dogs, other photos of which there are logits, and the dogs from other cameras."""
    pool, own, tests = dogs()
    root = need("imagenet") / "dogs"
    paths = find_images(root / "unlabelled")[0] + find_images(root / "test")[0]
    half = torch.cat([torch.zeros(len(own)), torch.ones(len(tests))]).int()
    labels = pool.truth
    yield CLEAN, Samples(Photos(paths, preprocess), labels, half=half)
    given = Path(need("readout_panel"), f"{name}_725classes.npz")
    if given.is_file():
        z = np.load(given)
        known = torch.from_numpy(z["logits"]).float(), torch.from_numpy(z["features"])
        yield PHOTOS, Samples(None, torch.from_numpy(z["labels"]).long(), known=known)
    for shift in CAMERA:
        yield shift, Samples(Photos(paths, preprocess, shift), labels, half=half)
