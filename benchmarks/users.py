"""The people: who holds which unlabelled samples, and on which others their network is tested.

Users are drawn by fixed seeds. A user's smaller sets of unlabelled samples are parts of the larger
ones, and no test sample is ever among them.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from networks import need
from shifts import Shift, shifts
from speech_data import DIGITS, Recordings, held_out, recordings
from torch import Tensor

from finepruning import Preprocess
from finepruning.research import find_images, read_image

MEAN = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
STD = torch.tensor([0.229, 0.224, 0.225])[:, None, None]


class Photos:
    """Photos as an ImageNet network wants them, decoded when they are asked for."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths, self._preprocess = paths, Preprocess(resize=256, crop=224)

    def __getitem__(self, numbers: list[int]) -> Tensor:
        with ThreadPoolExecutor(2) as threads:
            return torch.stack(list(threads.map(self._decode, numbers)))

    def _decode(self, number: int) -> Tensor:
        return self._preprocess(read_image(self._paths[number]))


class Pool:
    """Samples as the network wants them, with their truth, from which users hold some.

    Decoding a sample, and what ``shift`` does to it, is done once, when it is first asked for.
    """

    def __init__(self, samples: Tensor | Photos, truth: Tensor, shift: Shift | None = None) -> None:
        self.truth = truth
        self._samples, self._shift = samples, shift
        self._ready: dict[int, Tensor] = {}

    def __getitem__(self, index: Tensor) -> Tensor:
        new = [i for i in index.tolist() if i not in self._ready]
        if new:
            self._ready |= zip(new, self._make(new), strict=True)
        return torch.stack([self._ready[i] for i in index.tolist()])

    def _make(self, numbers: list[int]) -> Tensor:
        samples = self._samples[numbers]
        if self._shift is None:
            return samples
        pixels = (samples * STD + MEAN).clamp(0, 1)
        return (self._shift(pixels, numbers) - MEAN) / STD


@dataclass(frozen=True, eq=False)
class User:
    """A person: unlabelled samples to adapt to, and a disjoint labelled test set of a pool."""

    kind: str
    name: str
    classes: list[int]
    pool: Pool
    own: Tensor
    tested: Tensor

    @property
    def n(self) -> int:
        return len(self.own)

    @property
    def unlabelled(self) -> Tensor:
        return self.pool[self.own]

    @property
    def test(self) -> Tensor:
        return self.pool[self.tested]

    @property
    def labels(self) -> Tensor:
        return self.pool.truth[self.tested]

    @property
    def truth(self) -> Tensor:
        """Labels of the unlabelled samples: for fine-tuning with labels, and nothing else."""
        return self.pool.truth[self.own]

    def holding(self, n: int, tests: int | None = None) -> User:
        """The same user with the first ``n`` unlabelled samples (and about ``tests`` tests)."""
        step = 1 if tests is None else max(1, len(self.tested) // tests)
        return User(
            self.kind, self.name, self.classes, self.pool, self.own[:n], self.tested[::step]
        )


# --- ImageNet dogs


def dogs() -> tuple[Pool, Tensor, Tensor]:
    """The photos, and which of them are unlabelled and which tests."""
    root = need("imagenet") / "dogs"
    with (root / "unlabelled_truth.csv").open() as file:
        rows = list(csv.DictReader(file))
    outputs = {row["wnid"]: int(row["imagenet_index"]) for row in rows}
    truth = {row["file"]: int(row["imagenet_index"]) for row in rows}
    own, test = find_images(root / "unlabelled")[0], find_images(root / "test")[0]
    labels = [truth[path.name] for path in own] + [outputs[path.parent.name] for path in test]
    pool = Pool(Photos(own + test), torch.tensor(labels))
    return pool, torch.arange(len(own)), torch.arange(len(own), len(labels))


DRAW = "draw-"
"""What the draws of one person are called: all are tested on the same photos."""


def dogs_users(draws: int) -> Iterator[User]:
    """One owner of all ten breeds, whose photos come in another order in each draw."""
    pool, own, test = dogs()
    classes = torch.unique(pool.truth[test]).tolist()
    for draw in range(draws):
        order = torch.randperm(len(own), generator=torch.Generator().manual_seed(draw))
        yield User("ten breeds", f"{DRAW}{draw}", classes, pool, own[order], test)


def breed_users(users: int) -> Iterator[User]:
    """Owners of 5 breeds, then of 3, all sets different, with all photos of these."""
    pool, own, test = dogs()
    breeds = torch.unique(pool.truth[test]).tolist()
    for count in (5, 3):
        sets = list(combinations(breeds, count))
        drawn = np.random.default_rng(count).permutation(len(sets))[:users]
        for seed, which in enumerate(drawn):
            classes = list(sets[which])
            mine = own[torch.isin(pool.truth[own], torch.tensor(classes))]
            order = torch.randperm(len(mine), generator=torch.Generator().manual_seed(seed))
            tested = test[torch.isin(pool.truth[test], torch.tensor(classes))]
            yield User(f"{count} breeds", f"{count}-{seed}", classes, pool, mine[order], tested)


# --- CIFAR-10 after a JPEG round trip


def cifar() -> tuple[Tensor, Tensor]:
    """Images ``(10000, 3, 32, 32)`` as the networks want them, and labels."""
    held = np.load(need("cifar10_jpeg") / "test.npz")
    images = torch.from_numpy(held["images"]).permute(0, 3, 1, 2).float() / 255
    return (images - MEAN) / STD, torch.from_numpy(held["labels"]).long()


def class_user(pool: Pool, seed: int, classes: int = 3, most: int = 250) -> User:
    """A person of some classes: the samples of each class are split into two halves."""
    rng = np.random.default_rng(seed)
    labels = pool.truth.numpy()
    outputs = int(labels.max()) + 1
    chosen = sorted(rng.choice(outputs, classes, replace=False).tolist())
    own: list[int] = []
    test: list[int] = []
    for c in chosen:
        order = rng.permutation(np.flatnonzero(labels == c))
        half = len(order) // 2
        own += order[:half].tolist()
        test += order[half:].tolist()
    taken = torch.from_numpy(rng.permutation(own)[:most])
    kind = f"{classes} of {outputs} classes"
    return User(kind, f"{classes}of{outputs}-{seed}", chosen, pool, taken, torch.tensor(test))


def cifar_users(users: int) -> Iterator[User]:
    """People of 3 of the 10 classes."""
    pool = Pool(*cifar())
    for seed in range(users):
        yield class_user(pool, seed)


def unequal_users(users: int, most: int = 250) -> Iterator[User]:
    """People of 3 or 5 of the 10 classes who have some of these far more often than others, among
    what they hold and among what they are tested on alike."""
    pool = Pool(*cifar())
    for count, ratio in ((3, 3), (5, 2)):
        for seed in range(users):
            equal = class_user(pool, seed, count, most=len(pool.truth))
            often = np.random.default_rng(seed).permutation(equal.classes)
            own, tested = (_thinned(pool, part, often, ratio) for part in (equal.own, equal.tested))
            kind = f"{equal.kind}, each {ratio} times as often as the next"
            yield User(kind, f"{count}unequal-{seed}", equal.classes, pool, own[:most], tested)


def _thinned(pool: Pool, index: Tensor, often: np.ndarray, ratio: int) -> Tensor:
    """All samples of the first class of ``often``, one of ``ratio`` of the second, and so on."""
    truth = pool.truth[index]
    kept = torch.zeros(len(index), dtype=torch.bool)
    for rank, c in enumerate(often.tolist()):
        of_class = torch.nonzero(truth == c)[:, 0]
        kept[of_class[: max(1, len(of_class) // ratio**rank)]] = True
    return index[kept]


def shift_users(users: int, tests: int = 1000, most: int = 250) -> Iterator[User]:
    """People of all ten classes, whose camera differs from the one the network was trained on."""
    images, labels = cifar()
    for kind, shift in shifts().items():
        pool = Pool(images, labels, shift)
        for seed in range(users):
            order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
            own, tested = order[:most], order[most : most + tests]
            yield User(kind, f"{kind}-{seed}", list(range(10)), pool, own, tested)


# --- Words


FOLD = "/"
"""What separates a person's name from the number of the fold: all are tested on other samples."""


def speech_users(users: int) -> Iterator[User]:
    """People who say 20 words, and the same people restricted to ten digits."""
    yield from _speakers(recordings("users", users))


def development_speech_users() -> Iterator[User]:
    """The training speakers that networks named ``-dev`` have not heard, to choose things on."""
    data = recordings("train")
    yield from _speakers(data.of(held_out(data.speakers)))


def _speakers(data: Recordings) -> Iterator[User]:
    """Each speaker's takes of a word are split into two halves: adapted to, and tested on. Then
    the two change places: so few takes are all needed as tests."""
    digits = [i for i, word in enumerate(data.words) if word in DIGITS]
    for seed, speaker in enumerate(data.speakers):
        mine = data.of([speaker])
        pool = Pool(mine.waves, mine.said)
        rng = np.random.default_rng(seed)
        order = torch.from_numpy(rng.permutation(len(mine.said)))
        halves: tuple[list[int], list[int]] = ([], [])
        for word in range(len(data.words)):
            takes = order[pool.truth[order] == word].tolist()
            halves[0].extend(takes[: len(takes) // 2])
            halves[1].extend(takes[len(takes) // 2 :])
        mixed = [torch.from_numpy(rng.permutation(half)) for half in halves]
        for kind, name, classes in (
            (f"{len(data.words)} words", "words", list(range(len(data.words)))),
            ("digits", "digits", digits),
        ):
            for fold in (0, 1):
                own, tested = (
                    part[torch.isin(pool.truth[part], torch.tensor(classes))]
                    for part in (mixed[fold], mixed[1 - fold])
                )
                yield User(kind, f"{speaker}-{name}{FOLD}{fold}", classes, pool, own, tested)


NETWORKS = {
    "dogs": ("resnet50",),
    "breeds": ("resnet50",),
    "cifar": ("resnet20", "resnet56"),
    "unequal": ("resnet20",),
    "shift": ("resnet20", "resnet56"),
    "speech": ("dscnn", "transformer", "dscnn-small"),
}
USERS = {
    "dogs": dogs_users,
    "breeds": breed_users,
    "cifar": cifar_users,
    "unequal": unequal_users,
    "shift": shift_users,
    "speech": speech_users,
}
"""Data sets by name: ``USERS[data](count)`` yields the users, or draws, of each kind."""
