"""Image folders: every kind of file, bad ones too, in a fixed order, lazily."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from finepruning import FinepruningError, ImageFolder, Preprocess, class_folders
from finepruning.data.folder import describe_skipped
from finepruning.data.pictures import find_images, read_image

PLAIN = Preprocess(resize=None, crop=None, mean=(0.0,), std=(1.0,))


def save(path: Path, colour: tuple[int, ...] | int = (200, 100, 50), mode: str = "RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (8, 6), colour).save(path)
    return path


def truncated_jpeg(path: Path) -> Path:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:1500])
    return path


# Finding


def test_find_is_recursive_sorted_and_names_what_it_skips(tmp_path: Path) -> None:
    for name in ("b.png", "a.JPG", "sub/deep/c.WebP", ".hidden.png", ".cache/d.png"):
        save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("hello")
    images, skipped = find_images(tmp_path)
    assert [p.relative_to(tmp_path).as_posix() for p in images] == [
        "a.JPG",
        "b.png",
        "sub/deep/c.WebP",
    ]
    assert skipped == [(tmp_path / "notes.txt", "not an image file")]


def test_find_follows_links_but_not_in_circles(tmp_path: Path) -> None:
    save(tmp_path / "elsewhere" / "a.png")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "up").symlink_to(tmp_path / "photos")
    assert len(find_images(tmp_path / "photos")[0]) == 1


def test_missing_empty_and_file_as_folder(tmp_path: Path) -> None:
    with pytest.raises(FinepruningError, match="does not exist"):
        find_images(tmp_path / "nowhere")
    with pytest.raises(FinepruningError, match="no image in this folder"):
        find_images(tmp_path)
    with pytest.raises(FinepruningError, match="is a file"):
        find_images(save(tmp_path / "a.png"))


def test_class_folders(tmp_path: Path) -> None:
    for name in ("dog/a.png", "cat/x/b.png", "c.png"):
        save(tmp_path / name)
    (tmp_path / "empty").mkdir()
    assert class_folders(tmp_path) == ["cat", "dog"]
    with pytest.raises(FinepruningError, match="no class folders"):
        class_folders(tmp_path / "dog")


# Reading


@pytest.mark.parametrize("suffix", ["jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff"])
def test_every_format(tmp_path: Path, suffix: str) -> None:
    image = read_image(save(tmp_path / f"a.{suffix}"))
    assert (image.mode, image.size) == ("RGB", (8, 6))
    assert np.abs(np.asarray(image, int) - [200, 100, 50]).max() <= 8  # lossy formats


@pytest.mark.parametrize(
    ("mode", "colour", "suffix", "expected"),
    [
        ("L", 90, "png", (90, 90, 90)),
        ("1", 1, "png", (255, 255, 255)),
        ("LA", (90, 0), "png", (255, 255, 255)),
        ("RGBA", (10, 20, 30, 255), "png", (10, 20, 30)),
        ("RGBA", (10, 20, 30, 0), "png", (255, 255, 255)),
        ("I;16", 40000, "png", (156, 156, 156)),
        ("I;16", 40000, "tif", (156, 156, 156)),
        ("I", 40000, "tif", (156, 156, 156)),
        ("CMYK", (0, 255, 255, 0), "tif", (255, 0, 0)),
        ("YCbCr", (90, 128, 128), "tif", (90, 90, 90)),
    ],
)
def test_every_mode(
    tmp_path: Path,
    mode: str,
    colour: tuple[int, ...] | int,
    suffix: str,
    expected: tuple[int, int, int],
) -> None:
    image = read_image(save(tmp_path / f"a.{suffix}", colour, mode))
    assert image.mode == "RGB"
    assert image.getpixel((3, 3)) == expected


def test_palette_with_transparency(tmp_path: Path) -> None:
    image = Image.new("P", (4, 4), 0)
    image.putpalette([255, 0, 0, 0, 255, 0])
    image.putpixel((1, 1), 1)
    image.save(tmp_path / "a.gif", transparency=0)
    read = read_image(tmp_path / "a.gif")
    assert read.getpixel((1, 1)) == (0, 255, 0)
    assert read.getpixel((0, 0)) == (255, 255, 255)


def test_exif_orientation_is_honoured(tmp_path: Path) -> None:
    image = Image.new("RGB", (8, 4), "black")
    image.putpixel((0, 0), (255, 255, 255))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees clockwise to see it upright
    image.save(tmp_path / "a.png", exif=exif)
    read = read_image(tmp_path / "a.png")
    assert read.size == (4, 8)
    assert read.getpixel((3, 0)) == (255, 255, 255)


# Preprocessing


def test_preprocess_against_a_plain_reference() -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    x = Preprocess(resize=20, crop=16)(image)
    small = np.asarray(image.resize((30, 20), Image.Resampling.BILINEAR), np.float64)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    expected = ((small[2:18, 7:23] / 255 - mean) / std).transpose(2, 0, 1)
    assert x.dtype == torch.float32
    assert x.is_contiguous()
    np.testing.assert_allclose(x.numpy(), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("preprocess", "shape"),
    [
        (Preprocess(), (3, 224, 224)),
        (Preprocess(resize=32, crop=None), (3, 32, 48)),
        (Preprocess(resize=(10, 20), crop=None), (3, 10, 20)),
        (Preprocess(resize=None, crop=(8, 4)), (3, 8, 4)),
        (Preprocess(8, 8, (0.5,), (0.5,), channels=1), (1, 8, 8)),
    ],
)
def test_preprocess_shapes(preprocess: Preprocess, shape: tuple[int, ...]) -> None:
    assert preprocess(Image.new("RGB", (60, 40))).shape == shape
    assert str(preprocess)


def test_crop_outside_the_image_is_black() -> None:
    x = Preprocess(None, 8, (0.0,), (1.0,))(Image.new("RGB", (4, 4), "white"))
    assert x.sum() == 3 * 16


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mean": (0.1, 0.2)}, "mean: 2 values for 3"),
        ({"channels": 1}, "mean: 3 values for 1"),
        ({"channels": 4}, "channels: 4"),
        ({"std": (0.0,)}, "std above 0"),
        ({"mean": (float("nan"),)}, "finite"),
        ({"interpolation": "magic"}, "give one of nearest"),
        ({"crop": 0}, "crop: 0"),
        ({"resize": (4, -1)}, "resize"),
    ],
)
def test_preprocess_refuses(options: dict[str, object], message: str) -> None:
    with pytest.raises(FinepruningError, match=message):
        Preprocess(**options)  # type: ignore[arg-type]


# Batches


def test_batches_in_order_again_and_again(tmp_path: Path) -> None:
    for i in range(7):
        save(tmp_path / f"{i}.png", (i, i, i))
    folder = ImageFolder(tmp_path, PLAIN, batch_size=3)
    assert (len(folder), folder.images) == (3, 7)
    for _ in range(2):
        batches = list(folder)
        assert all(isinstance(x, Tensor) for x in batches)
        x = torch.cat(batches)  # type: ignore[arg-type]
        assert [len(b) for b in batches] == [3, 3, 1]
        assert (x[:, 0, 0, 0] * 255).round().tolist() == list(range(7))


def test_bad_files_are_skipped_counted_and_named(tmp_path: Path) -> None:
    for name in ("a.png", "d.png", "z.png"):
        save(tmp_path / name)
    truncated_jpeg(tmp_path / "b.jpg")
    (tmp_path / "c.jpg").write_text("I am a text file.\n" * 50)
    (tmp_path / "e.png").write_bytes(b"")
    (tmp_path / "f.txt").write_text("text")
    Image.new("F", (4, 4)).save(tmp_path / "g.tif")
    folder = ImageFolder(tmp_path, PLAIN, batch_size=2)
    for _ in range(2):
        assert [len(x) for x in folder] == [2, 1]  # batches stay full
        assert (len(folder), folder.images) == (2, 3)
        reasons = {path.name: reason for path, reason in folder.skipped}
        assert len(folder.skipped) == 5
        assert "truncated" in reasons["b.jpg"]
        assert reasons["c.jpg"] == reasons["e.png"] == "not an image, whatever its name says"
        assert reasons["f.txt"] == "not an image file"
        assert "floating-point" in reasons["g.tif"]
    text = describe_skipped(folder.skipped)
    assert text.startswith("5 skipped: ")
    assert text.endswith("; ...")


def test_error_when_none_is_left(tmp_path: Path) -> None:
    truncated_jpeg(tmp_path / "b.jpg")
    folder = ImageFolder(tmp_path, PLAIN)
    with pytest.raises(FinepruningError, match=r"none of the images can be used.*b\.jpg"):
        list(folder)


def test_labels(tmp_path: Path) -> None:
    for name in ("cat/a.png", "cat/x/b.png", "dog/c.png", "stray.png", "other/d.png"):
        save(tmp_path / name)
    folder = ImageFolder(tmp_path, PLAIN, labels={"cat": 281, "dog": 5})
    ((x, y),) = list(folder)
    assert x.shape == (3, 3, 6, 8)
    assert y.dtype == torch.int64
    assert y.tolist() == [281, 281, 5]
    assert {path.name for path, _ in folder.skipped} == {"stray.png", "d.png"}
    with pytest.raises(FinepruningError, match="none of the images"):
        ImageFolder(tmp_path, PLAIN, labels={"horse": 1})


def test_images_of_several_sizes_need_one_size(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    Image.new("RGB", (9, 9)).save(tmp_path / "b.png")
    with pytest.raises(FinepruningError, match="--resize 256 --crop 224"):
        list(ImageFolder(tmp_path, PLAIN))
    assert len(list(ImageFolder(tmp_path, Preprocess(8, 8)))) == 1


def test_an_error_in_the_users_preprocessing_is_not_a_bad_image(tmp_path: Path) -> None:
    save(tmp_path / "a.png")

    def broken(image: Image.Image) -> Tensor:
        raise KeyError("size")

    with pytest.raises(FinepruningError, match=r"a\.png: preprocessing failed with KeyError"):
        list(ImageFolder(tmp_path, broken))


def test_only_a_few_images_are_in_memory_at_once(tmp_path: Path) -> None:
    for i in range(60):
        save(tmp_path / f"{i:02}.png")
    done: list[None] = []
    folder = ImageFolder(tmp_path, counting(done), batch_size=4)
    batches = iter(folder)
    for used in range(1, 5):
        next(batches)
        assert len(done) <= 4 * used + 4 + 5 + 1
    batches.close()  # type: ignore[attr-defined]
    assert not [t for t in threading.enumerate() if t.name.startswith("ThreadPoolExecutor")]
    assert folder.images == 60


def counting(done: list[None]) -> Callable[[Image.Image], Tensor]:
    def preprocess(image: Image.Image) -> Tensor:
        done.append(None)
        return PLAIN(image)

    return preprocess


def test_batch_size_below_one(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    with pytest.raises(FinepruningError, match="batch size: 0"):
        ImageFolder(tmp_path, PLAIN, batch_size=0)
