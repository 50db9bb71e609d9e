"""Image folders as batches: found in a fixed order, decoded ahead of use, never all in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from .._errors import FinepruningError
from .folder import Folder
from .pictures import IMAGES, read_image


class ImageFolder(Folder[Tensor]):
    """Batches of the images in a folder; iterate over it as often as you like.

    >>> for x in ImageFolder("photos", Preprocess(), batch_size=32):  # doctest: +SKIP
    ...     x.shape  # (32, 3, 224, 224), float32; the last batch may be smaller

    With ``labels``, a map from the name of a folder directly under ``root`` to an output index,
    batches are ``(x, y)``, with ``y`` int64 of shape ``(B,)``.

    ``len()`` is the number of batches, ``images`` that of the images; ``skipped`` lists
    ``(path, reason)``. An image that cannot be decoded is found only when it is first reached:
    it is then skipped, counted in ``skipped``, and left out of later rounds too.

    ``preprocess`` turns a ``PIL.Image`` (RGB, upright) into a tensor; all must have one shape.
    Raises :class:`FinepruningError` when no image can be used.
    """

    kind = IMAGES

    def __init__(
        self,
        root: str | Path,
        preprocess: Callable[[Image.Image], Tensor],
        *,
        batch_size: int = 32,
        labels: Mapping[str, int] | None = None,
    ) -> None:
        self.preprocess = preprocess
        super().__init__(root, batch_size=batch_size, labels=labels)

    @property
    def images(self) -> int:
        return self.files

    def __len__(self) -> int:
        return -(-self.files // self.batch_size)

    def __iter__(self) -> Iterator[Tensor | tuple[Tensor, Tensor]]:
        xs: list[Tensor] = []
        ys: list[int] = []
        for x, _, y in self._decoded():
            if xs and x.shape != xs[0].shape:
                raise FinepruningError(
                    f"{self.root}: images give inputs of shapes {tuple(xs[0].shape)} and"
                    f" {tuple(x.shape)}; set one size, for example --resize 256 --crop 224"
                )
            xs.append(x)
            ys.append(y)
            if len(xs) == self.batch_size:
                yield self._batch(xs, ys)
                xs, ys = [], []
        if xs:
            yield self._batch(xs, ys)

    def _batch(self, xs: list[Tensor], ys: list[int]) -> Tensor | tuple[Tensor, Tensor]:
        x = torch.stack(xs)
        return x if self.labels is None else (x, torch.tensor(ys))

    def _load(self, path: Path) -> Tensor | str:
        """Return the network's input, or why the file is skipped."""
        try:
            image = read_image(path)
        except (OSError, ValueError) as error:
            return str(error).splitlines()[0] if str(error) else "cannot be read"
        try:
            return self.preprocess(image)
        except Exception as error:  # the user's own callable: whatever it raises stops the job
            raise FinepruningError(
                f"{path}: preprocessing failed with {type(error).__name__}: {error}"
            ) from error
