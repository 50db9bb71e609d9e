"""The folder that a network's inputs come from: images or audio, whichever it mostly holds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from .._errors import FinepruningError
from ..data.audio import AUDIO, AudioFolder
from ..data.folder import Kind, folders_of, kind_of
from ..data.images import ImageFolder
from ..data.pictures import IMAGES
from .loaded import Loaded

KINDS = (IMAGES, AUDIO)


def held_kind(data: str | Path) -> Kind:
    """What most files under ``data`` are, one of :data:`KINDS`: :func:`kind_of`."""
    return kind_of(data, KINDS)


def class_folders(data: str | Path) -> list[str]:
    """Return the names of the folders directly under ``data`` that hold images or audio, sorted.

    >>> class_folders("labelled_photos/")  # doctest: +SKIP
    ['beagle', 'dingo']

    Only the kind counts that most files are of. Raises :class:`FinepruningError` where there is no
    such folder, or none in it.
    """
    return folders_of(data, held_kind(data))


def check_kind(loaded: Loaded, kind: Kind, data: str | Path) -> None:
    """Raise :class:`FinepruningError` where the network's inputs cannot be made from ``kind``."""
    if kind is AUDIO and not loaded.takes_audio:
        raise FinepruningError(
            f"--model {loaded.called}: takes images, but {data} holds audio; give a network for"
            " audio, or a folder of images"
        )
    if kind is IMAGES and not loaded.takes_images:
        raise FinepruningError(
            f"--model {loaded.called}: takes audio, but {data} holds images; give a network for"
            " images, or a folder of recordings"
        )


def open_folder(
    data: str | Path,
    loaded: Loaded,
    *,
    batch_size: int = 32,
    labels: Mapping[str, int] | None = None,
    seed: int = 0,
) -> ImageFolder | AudioFolder:
    """The files in a folder as batches for a network, prepared as ``loaded`` says.

    >>> loaded = load_model("torchvision:resnet50", "resnet50.safetensors")  # doctest: +SKIP
    >>> for x in open_folder("photos/", loaded):  # doctest: +SKIP
    ...     loaded.model(x)  # x: (32, 3, 224, 224), float32; the last batch may be smaller

    What most files are, images or audio, decides; the others are skipped and named. With
    ``labels``, a map from the name of a folder directly under ``data`` to an output index, batches
    are ``(x, y)``, ``y`` int64. Unlabelled recordings come in the order that ``seed`` draws;
    images, and what is labelled, in the order of their paths.

    Raises :class:`FinepruningError` where there is no such folder, nothing in it that can be used,
    as many images as recordings, or where the network takes the other kind.
    """
    kind = held_kind(data)
    check_kind(loaded, kind, data)
    if kind is IMAGES:
        return ImageFolder(data, loaded.preprocess, batch_size=batch_size, labels=labels)
    front = loaded.front or loaded.preparing_audio().front
    order = seed if labels is None else None
    return AudioFolder(data, front, batch_size=batch_size, labels=labels, seed=order)
