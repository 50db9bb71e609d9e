"""The demo's data: scikit-learn's 1797 handwritten digits, shared out without overlap.

Two in five train the generic network. The others belong to two people, who each write a few digits
only, in a hand of their own that the generic network has never seen.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageFilter
from sklearn.datasets import load_digits

SCAN = 32  # the side of an image in pixels; the data set has 8x8 cells of ink, 0 to 16
PHOTOS = 96  # unlabelled images a person gives; the rest of theirs, labelled, is for the test


@dataclass(frozen=True)
class Person:
    """Who writes which digits, and what their hand does to an upright, clean image."""

    name: str
    digits: tuple[int, ...]
    hand: Callable[[Image.Image, Generator], Image.Image]


def slanted(image: Image.Image, random: Generator) -> Image.Image:
    """Lean everything to the right, as a quick hand does; the pen is as in the data set."""
    lean = 0.5
    matrix = (1, lean, -lean * SCAN / 2, 0, 1, 0)
    return image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)


def felt_pen(image: Image.Image, random: Generator) -> Image.Image:
    """Draw thick lines on a turned sheet, and photograph it in poor light."""
    image = image.filter(ImageFilter.MaxFilter(3)).rotate(-25, Image.Resampling.BILINEAR)
    noise = random.normal(0, 25, (SCAN, SCAN))
    return Image.fromarray((np.asarray(image) + noise).clip(0, 255).astype(np.uint8))


# Fixed before any network was personalised. The digits are two sets that do not overlap. The hands
# are what one finds on paper; how far each goes was set by the generic network alone, so that it
# gets about one in six wrong: with less there is nothing to win, with more nothing to build on.
PEOPLE = (Person("Ada", (3, 5, 8, 9), slanted), Person("Ben", (1, 4, 7), felt_pen))


def scan(cells: np.ndarray) -> Image.Image:
    """Return 8x8 cells as an image of 32x32 grey pixels."""
    return Image.fromarray((cells * (255 / 16)).astype(np.uint8)).resize((SCAN, SCAN))


def split() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return images ``(N, 8, 8)`` and labels for generic training, then those held out of it."""
    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    train, held_out = np.split(order, [len(order) * 2 // 5])
    return data.images[train], data.target[train], data.images[held_out], data.target[held_out]


def write_images(person: Person, folder: Path) -> None:
    """Write ``folder/photos/*.png``, unlabelled, and ``folder/test/<digit>/*.png``."""
    _, _, images, labels = split()
    random = np.random.default_rng(list(person.name.encode()))
    mine = random.permutation(np.flatnonzero(np.isin(labels, person.digits)))
    for i, index in enumerate(mine):
        place = folder / ("photos" if i < PHOTOS else f"test/{labels[index]}")
        place.mkdir(parents=True, exist_ok=True)
        person.hand(scan(images[index]), random).save(place / f"{i:03}.png")
