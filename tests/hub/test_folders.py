"""The folder that a network's inputs come from, from its name to an accuracy."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

import finepruning
from finepruning import (
    AudioFolder,
    FinepruningError,
    FrontEnd,
    ImageFolder,
    Loaded,
    Preprocess,
    class_folders,
    open_folder,
)
from speech import clip

SMALL = Preprocess(resize=None, crop=None, mean=(0.0,), std=(1.0,))
IMAGES = Loaded(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), SMALL, ("r", "g", "b"))
AUDIO = Loaded(nn.Flatten(), SMALL, front=FrontEnd())
OWN = Loaded(nn.Flatten(), SMALL, assumed=True, own=True)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for name, colour in {"r": (250, 0, 0), "g": (0, 250, 0), "b": (0, 0, 250)}.items():
        for i in range(2):
            path = tmp_path / "photos" / name / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (10, 8), colour).save(path)
    return tmp_path / "photos"


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    for i in range(6):
        clip(tmp_path / "notes" / ("no", "yes")[i % 2] / f"{i}.wav", 0.2 + 0.1 * i)
    return tmp_path / "notes"


def test_images(photos: Path) -> None:
    for loaded in (IMAGES, OWN):
        folder = open_folder(photos, loaded, batch_size=4)
        assert isinstance(folder, ImageFolder)
        assert [tuple(x.shape) for x in folder] == [(4, 3, 8, 10), (2, 3, 8, 10)]  # type: ignore[union-attr]
    Image.new("RGB", (10, 8)).save(photos / "a.png")
    folder = open_folder(photos, IMAGES, labels={"r": 0, "b": 2})
    ((_, y),) = list(folder)
    assert y.tolist() == [2, 2, 0, 0]


def test_audio(notes: Path) -> None:
    def lengths(loaded: Loaded, **options: object) -> list[int]:
        folder = open_folder(notes, loaded, batch_size=1, **options)  # type: ignore[arg-type]
        assert isinstance(folder, AudioFolder)
        return [(x[0] if isinstance(x, tuple) else x).shape[1] for x in folder]

    in_order = [3200, 6400, 9600, 4800, 8000, 11200]
    for loaded in (AUDIO, OWN, OWN.preparing_audio(rate=16000)):
        assert lengths(loaded, seed=1) == lengths(loaded, seed=1) != lengths(loaded, seed=2)
        assert sorted(lengths(loaded)) == sorted(in_order)
        assert lengths(loaded, labels={"no": 0, "yes": 1}) == in_order


def test_the_other_kind_is_refused(photos: Path, notes: Path, tmp_path: Path) -> None:
    with pytest.raises(FinepruningError, match=r"takes images, but .*notes holds audio; give"):
        open_folder(notes, IMAGES)
    with pytest.raises(FinepruningError, match=r"takes audio, but .*photos holds images; give"):
        open_folder(photos, AUDIO)
    with pytest.raises(FinepruningError, match="as many images and audio files"):
        open_folder(tmp_path, OWN)
    with pytest.raises(FinepruningError, match="does not exist"):
        open_folder(tmp_path / "none", OWN)


def test_class_folders_of_what_there_is(photos: Path, notes: Path) -> None:
    assert class_folders(str(photos)) == ["b", "g", "r"]
    assert class_folders(notes) == ["no", "yes"]
    with pytest.raises(FinepruningError, match="no class folders"):
        class_folders(notes / "no")


def test_from_a_folder_to_an_accuracy(photos: Path) -> None:
    """All of it by public names."""
    names = finepruning.class_folders(photos)
    labels = finepruning.match_classes(names, 3, names=IMAGES.classes)
    folder = finepruning.open_folder(photos, IMAGES, labels=labels)
    found = finepruning.evaluate(IMAGES.model, folder)
    assert (found.correct, found.n) == (6, 6)
    assert not torch.is_inference_mode_enabled()
