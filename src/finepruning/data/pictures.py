"""Pictures: a file decoded, upright, and made the network's input. No PyTorch is needed to read."""

from __future__ import annotations

import importlib
import math
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.ExifTags import Base

from .._errors import FinepruningError
from .folder import Kind, find_files

if TYPE_CHECKING:
    from torch import Tensor

ORIENTATION = Base.Orientation
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
IMAGES = Kind(
    "image",
    "images",
    "images",
    frozenset(
        f".{ending}"
        for ending in (
            *("apng", "avif", "bmp", "gif", "heic", "heif", "jfif", "jp2", "jpe", "jpeg"),
            *("jpg", "pgm", "png", "ppm", "tif", "tiff", "webp"),
        )
    ),
    "jpg, png, webp, heic, bmp, gif or tif",
)
"""Files with these endings are read as images; anything else in the folder is skipped and named."""

_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
}


@dataclass(frozen=True)
class Preprocess:
    """From an image to the network's input: resize, crop the centre, scale to [0, 1], normalise.

    >>> Preprocess(resize=256, crop=224)(Image.new("RGB", (640, 480))).shape
    torch.Size([3, 224, 224])

    ``resize``: the shorter side in pixels, or ``(height, width)``, or None to keep the size.
    ``crop``: a square's side, or ``(height, width)``, or None; outside the image it is black.
    ``mean``, ``std``: one value, or one for each channel, on the scale from 0 to 1. ``channels``: 3
    (RGB) or 1 (grey). ``interpolation``: nearest, bilinear, bicubic, lanczos, box or hamming. The
    defaults are those of torchvision's ImageNet networks.

    Raises :class:`FinepruningError` where one of them cannot be.
    """

    resize: int | tuple[int, int] | None = 256
    crop: int | tuple[int, int] | None = 224
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    channels: int = 3
    interpolation: str = "bilinear"

    def __post_init__(self) -> None:
        object.__setattr__(self, "mean", tuple(self.mean))
        object.__setattr__(self, "std", tuple(self.std))
        if self.channels not in (1, 3):
            raise FinepruningError(f"channels: {self.channels}; give 3 (RGB) or 1 (grey)")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, self.channels):
                raise FinepruningError(
                    f"{name}: {len(values)} values for {self.channels} channel(s);"
                    f" give 1 or {self.channels}"
                )
        if not all(math.isfinite(v) for v in self.mean + self.std) or min(self.std) <= 0:
            raise FinepruningError(f"mean {self.mean}, std {self.std}: finite, and std above 0")
        if self.interpolation not in _FILTERS:
            raise FinepruningError(
                f"interpolation: {self.interpolation!r}; give one of {', '.join(_FILTERS)}"
            )
        for name, size in (("resize", self.resize), ("crop", self.crop)):
            if size is not None and min(_pair(size)) < 1:
                raise FinepruningError(f"{name}: {size}; give 1 pixel or more")

    def __call__(self, image: Image.Image) -> Tensor:
        """Return float32 ``(channels, height, width)``."""
        import torch  # on the device, where the network has been exported, there is none

        return torch.from_numpy(self.pixels(image))

    def pixels(self, image: Image.Image) -> np.ndarray:
        """The same as a NumPy array."""
        image = image.convert("RGB" if self.channels == 3 else "L")
        if self.resize is not None:
            height, width = self._resized(image.height, image.width)
            image = image.resize((width, height), _FILTERS[self.interpolation])
        if self.crop is not None:
            height, width = _pair(self.crop)
            top, left = round((image.height - height) / 2), round((image.width - width) / 2)
            image = image.crop((left, top, left + width, top + height))
        pixels = np.asarray(image, dtype=np.float32).reshape(image.height, image.width, -1) / 255
        pixels = (pixels - np.array(self.mean, "f4")) / np.array(self.std, "f4")
        return np.ascontiguousarray(pixels.transpose(2, 0, 1))

    def scaled(self, factor: float) -> Preprocess:
        """The same part of each picture in ``factor`` times as many pixels a side.

        >>> print(Preprocess().scaled(0.5))
        resize 128 bilinear, crop 112, mean [0.485, 0.456, 0.406], std [0.229, 0.224, 0.225],\
 channels 3
        """

        def side(size: int | tuple[int, int] | None) -> int | tuple[int, int] | None:
            if isinstance(size, tuple):
                return (max(1, round(size[0] * factor)), max(1, round(size[1] * factor)))
            return None if size is None else max(1, round(size * factor))

        return replace(self, resize=side(self.resize), crop=side(self.crop))

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        if not isinstance(self.resize, int):
            return self.resize or (height, width)
        short, long = self.resize, int(self.resize * max(height, width) / min(height, width))
        return (short, long) if height <= width else (long, short)

    def __str__(self) -> str:
        return (
            f"resize {self.resize} {self.interpolation}, crop {self.crop},"
            f" mean {list(self.mean)}, std {list(self.std)}, channels {self.channels}"
        )


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else size


def find_images(root: str | Path) -> tuple[list[Path], list[tuple[Path, str]]]:
    """Return the image files under ``root``, sorted, and what was skipped: :func:`find_files`."""
    return find_files(root, IMAGES)


FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF", "HEIF")
"""What a file is read as, whatever its name says."""
LARGEST = 256_000_000
"""Pixels of a photo, at most: the largest sensors have 200 million."""
LARGE = 64_000_000
"""Pixels from which a photo is made smaller as it is read, and one is read at a time."""
LONGEST = 100
"""Times as long as wide that a photo may be: resized, a longer one would take any memory."""
ENOUGH = 1024
"""Pixels of the shorter side that a large photo keeps at least: no network takes as many."""
_UPRIGHT = {
    2: (Image.Transpose.FLIP_LEFT_RIGHT,),
    3: (Image.Transpose.ROTATE_180,),
    4: (Image.Transpose.FLIP_TOP_BOTTOM,),
    5: (Image.Transpose.TRANSPOSE,),
    6: (Image.Transpose.ROTATE_270,),
    7: (Image.Transpose.TRANSVERSE,),
    8: (Image.Transpose.ROTATE_90,),
}
"""What turns an image of each EXIF orientation the right way up."""
_OPENING, _ONE_LARGE = Lock(), Lock()


def read_image(path: str | Path) -> Image.Image:
    """Decode a file to 8-bit RGB, the right way up; transparent parts become white.

    Photos of more than 64 million pixels are made smaller, to 1,024 pixels a side at least. Raises
    ``OSError`` or ``ValueError`` with a short reason when the file cannot be used.
    """
    if Path(path).suffix.lower() in (".heic", ".heif"):
        _register_heif()
    try:
        with _opened(path) as file:
            _check_size(*file.size)
            if file.width * file.height < LARGE:
                return _upright_rgb(file)
            with _ONE_LARGE:
                return _upright_rgb(file)
    except UnidentifiedImageError:
        raise ValueError("not an image, whatever its name says") from None
    except MemoryError:
        raise ValueError("too large for the memory") from None
    except (OSError, ValueError):
        raise
    except Exception as error:  # Pillow's decoders raise anything at all on damaged files
        raise ValueError(str(error) or "damaged") from None


def _opened(path: str | Path) -> Image.Image:
    """The file, of which only the header has been read."""
    # Pillow warns of, and refuses, what today's phones take. Our own check comes next.
    with _OPENING:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            Image.init()
            return Image.open(path, formats=[name for name in FORMATS if name in Image.OPEN])
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _check_size(width: int, height: int) -> None:
    if width * height > LARGEST:
        raise ValueError(f"{width} x {height} pixels: larger than any photo")
    if max(width, height) > LONGEST * min(width, height):
        raise ValueError(f"{width} x {height} pixels: too long and thin for a photo")


def _upright_rgb(file: Image.Image) -> Image.Image:
    if file.width * file.height >= LARGE:
        file.draft("RGB", (ENOUGH, ENOUGH))  # of a JPEG only a part is decoded then
    file.load()
    orientation = _orientation(file)
    image: Image.Image = file
    if (factor := min(image.size) // ENOUGH) > 1 and image.width * image.height >= LARGE:
        image = image.reduce(factor)
    for way in _UPRIGHT.get(orientation, ()):
        image = image.transpose(way)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    if image.mode.startswith("I"):  # 16 bits; Pillow would clip it at 255
        high = np.asarray(image).astype(np.int64).clip(0, 65535) >> 8
        image = Image.fromarray(high.astype(np.uint8))
    elif image.mode == "F":
        raise ValueError("floating-point pixels, whose range is not known")
    return image.convert("RGB")


def _orientation(file: Image.Image) -> int:
    """The EXIF orientation; 1, upright, where there is none or the EXIF is damaged."""
    try:
        return int(file.getexif().get(ORIENTATION, 1))
    except Exception:  # whatever stands there: the picture itself is fine
        return 1


def _register_heif() -> None:
    try:
        heif = importlib.import_module("pillow_heif")
    except ImportError:
        raise ValueError("HEIC needs pillow-heif: pip install finepruning[heic]") from None
    heif.register_heif_opener()
