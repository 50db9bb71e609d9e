"""Damaged images and sounds: none may raise what is not ours, hang, or take the memory.

    python benchmarks/fuzz.py [--images 100000] [--sounds 20000] [--seed 0]

Small files of every format are damaged at random: bits turned, bytes replaced by extremes, pieces
cut out, doubled, swapped between files. Each is read as a folder would read it, in a process that
is watched. Prints what went wrong, with the number that makes the file again, and exits with 1.
"""

from __future__ import annotations

import argparse
import io
import multiprocessing
import resource
import struct
import sys
import time
import warnings
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import soundfile
from PIL import Image
from PIL.ExifTags import Base
from tqdm import tqdm

from finepruning import Preprocess
from finepruning.research import read_audio, read_image

SECONDS, BYTES = 2.0, 1e9
EXTREMES = (b"\0", b"\xff", b"\x7f", b"\x80", b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff")


def images() -> dict[str, bytes]:
    """A small image of each format."""
    pixels = np.random.default_rng(0).integers(0, 255, (24, 20, 4), dtype=np.uint8)
    exif = Image.Exif()
    exif[Base.Orientation], exif[Base.XResolution], exif[Base.Make] = 6, 72.0, "x"
    made = {}
    for name, mode, options in (
        ("jpeg", "RGB", {"exif": exif}), ("jpeg", "CMYK", {}), ("jpeg", "L", {"progressive": True}),
        ("png", "RGBA", {"exif": exif}), ("png", "P", {}), ("png", "1", {}), ("gif", "P", {}),
        ("bmp", "RGB", {}), ("tiff", "RGB", {"compression": "tiff_lzw"}), ("tiff", "L", {}),
        ("webp", "RGBA", {}), ("webp", "RGB", {"lossless": True, "exif": exif}), ("ppm", "RGB", {}),
        ("jpeg2000", "RGB", {}), ("avif", "RGB", {}),
    ):  # fmt: skip
        file = io.BytesIO()
        try:
            Image.fromarray(pixels).convert(mode).save(file, name, **options)
        except (KeyError, OSError, ValueError):
            continue  # this Pillow cannot write it
        made[f"{name}-{mode}-{len(made)}"] = file.getvalue()
    return made


def sounds() -> dict[str, bytes]:
    """A short sound of each format."""
    wave = np.random.default_rng(0).normal(0, 0.1, (4000, 2)).astype("f4")
    made = {}
    for form, kind in (
        ("WAV", "PCM_16"), ("WAV", "FLOAT"), ("WAV", "ULAW"), ("WAV", "IMA_ADPCM"),
        ("WAVEX", "PCM_24"), ("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("OGG", "OPUS"),
        ("AIFF", "PCM_16"), ("AU", "PCM_16"), ("CAF", "PCM_16"), ("W64", "PCM_16"),
        ("MP3", "MPEG_LAYER_III"),
    ):  # fmt: skip
        file = io.BytesIO()
        try:
            soundfile.write(file, wave, 16000, format=form, subtype=kind)
        except (soundfile.SoundFileError, ValueError):
            continue
        made[f"{form}-{kind}"] = file.getvalue()
    return made


def damaged(files: list[bytes], number: int, seed: int) -> bytes:
    """Damaged file number ``number``."""
    draw = np.random.default_rng([seed, number])
    data = bytearray(files[number % len(files)])
    for _ in range(int(draw.integers(1, 6))):
        # Headers are at the start: most of what can go wrong is there.
        reach = len(data) if draw.random() < 0.4 else min(len(data), 96)
        at = int(draw.integers(0, max(1, reach)))
        way = int(draw.integers(0, 7))
        if way == 0 and data:
            data[at] ^= 1 << int(draw.integers(0, 8))
        elif way == 1:
            extreme = EXTREMES[int(draw.integers(0, len(EXTREMES)))]
            data[at : at + len(extreme)] = extreme
        elif way == 2:
            del data[at : at + int(draw.integers(1, 64))]
        elif way == 3:
            data[at:at] = data[at : at + int(draw.integers(1, 64))]
        elif way == 4:
            data = data[: max(1, at)] if draw.random() < 0.3 else data
        elif way == 5:
            other = files[int(draw.integers(0, len(files)))]
            data[at : at + 32] = other[at : at + 32]
        else:
            size = struct.pack(draw.choice(["<I", ">I"]), int(draw.integers(0, 2**32)))
            data[at : at + 4] = size
    return bytes(data)


def look_at_image(path: Path) -> str:
    try:
        Preprocess()(read_image(path))
    except (OSError, ValueError) as error:
        return "" if str(error) else "no reason"
    return ""


def look_at_sound(path: Path) -> str:
    try:
        read_audio(path, 16000)
    except (OSError, ValueError) as error:
        return "" if str(error) else "no reason"
    return ""


def work(kind: str, numbers: range, seed: int, pipe: Any) -> None:
    """Look at some files, and tell of each as it begins and ends."""
    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))
    files = [*(images() if kind == "images" else sounds()).values()]
    names = [*(images() if kind == "images" else sounds())]
    look = look_at_image if kind == "images" else look_at_sound
    with TemporaryDirectory() as folder:
        for number in numbers:
            name = names[number % len(names)].split("-")[0].lower()
            path = Path(folder, f"x.{name}")
            path.write_bytes(damaged(files, number, seed))
            pipe.send(("begin", number, ""))
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            started = time.perf_counter()
            try:
                said = look(path)
            except BaseException as error:
                said = f"{type(error).__name__}: {str(error)[:100]}"
            taken = time.perf_counter() - started
            grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
            if taken > SECONDS:
                said = said or f"{taken:.1f} s"
            if grown > BYTES:
                said = said or f"{grown / 1e9:.1f} GB"
            pipe.send(("end", number, said))
    pipe.send(("done", 0, ""))


def fuzz(kind: str, count: int, seed: int) -> Counter[str]:
    """What went wrong, and how often."""
    wrong: Counter[str] = Counter()
    number = 0
    with tqdm(total=count, desc=kind) as bar:
        while number < count:
            ours, theirs = multiprocessing.Pipe()
            rest = range(number, count)
            process = multiprocessing.Process(target=work, args=(kind, rest, seed, theirs))
            process.start()
            theirs.close()
            while True:
                try:
                    said = ours.recv() if ours.poll(5 * SECONDS) else ("hang", number, "hangs")
                except EOFError:
                    said = ("crash", number, "the process died")
                what, number, reason = said
                if what == "begin":
                    continue
                if reason:
                    wrong[reason] += 1
                    print(f"{kind} {number}: {reason}", flush=True)
                number += 1
                bar.update(what != "done")
                if what != "end":
                    break
            if what == "done":
                process.join()
                break
            process.kill()
            process.join()
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--sounds", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    wrong: Counter[str] = Counter()
    for kind, count in (("images", chosen.images), ("sounds", chosen.sounds)):
        found = fuzz(kind, count, chosen.seed)
        print(f"{kind}: {count} damaged files, {sum(found.values())} wrong")
        wrong += found
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
