"""The protocol of the measurements: data, users, accuracies, intervals and result files.

Data is third party's and never part of this project: it is found through the environment variable
FINEPRUNING_DATA (default ../shared/data). Users are drawn by fixed seeds.
"""

from __future__ import annotations

import csv
import math
import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from scipy import stats
from torch import Tensor, nn
from torch.nn import functional as F

from finepruning._data import ImageFolder, Preprocess
from finepruning._resnet import resnet

DATA = Path(os.environ.get("FINEPRUNING_DATA", "../shared/data"))
RESULTS = Path(__file__).parent.parent / "results"
MEAN = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
STD = torch.tensor([0.229, 0.224, 0.225])[:, None, None]


def need(folder: str) -> Path:
    """The folder of a data set, or a clean end that says what is missing."""
    path = DATA / folder
    if not path.is_dir():
        print(f"skipped: no {path}; set FINEPRUNING_DATA to a folder that holds {folder}/")
        sys.exit(0)
    return path


@dataclass
class User:
    """A person: unlabelled samples to adapt to, and a disjoint labelled test set."""

    name: str
    classes: list[int]
    unlabelled: Tensor
    test: Tensor
    labels: Tensor


@dataclass
class Row:
    """One line of a result file."""

    user: str
    n: int
    method: str
    sparsity: float
    correct: int
    told: int
    total: int
    seconds: float = math.nan
    dense_passes: float = math.nan
    forward_passes: float = math.nan
    peak_mb: float = math.nan
    artifact_bytes: float = math.nan


# --- ImageNet dogs, ResNet-50
# -----------------------------------------------------------------------


def resnet50() -> nn.Module:
    """The ResNet-50 of the data folder, in float32."""
    model = resnet("resnet50").eval()
    state = load_file(need("imagenet") / "resnet50.safetensors")
    model.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state.items()})
    return model


def dogs() -> tuple[Tensor, Tensor, Tensor, list[int]]:
    """Unlabelled photos, test photos, test labels, and the ten classes (resize 256, crop 224)."""
    root = need("imagenet")
    with (root / "dogs" / "unlabelled_truth.csv").open() as file:  # only the names of the folders
        index = {row["wnid"]: int(row["imagenet_index"]) for row in csv.DictReader(file)}
    unlabelled = ImageFolder(root / "dogs" / "unlabelled", Preprocess(), batch_size=50)
    test = ImageFolder(root / "dogs" / "test", Preprocess(), batch_size=50, labels=index)
    batches = list(test)
    return (
        torch.cat([b if isinstance(b, Tensor) else b[0] for b in unlabelled]),
        torch.cat([x for x, _ in batches]),
        torch.cat([torch.as_tensor(y) for _, y in batches]),
        sorted(index.values()),
    )


# --- CIFAR-10 after a JPEG round trip
# ---------------------------------------------------------------


class CifarBlock(nn.Module):
    """Basic block with the option-A shortcut of He et al. 2016: subsample and pad channels."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.stride, self.pad = stride, (channels - channels_in) // 2

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.pad, self.pad))
        return torch.relu(y + x)


class CifarResNet(nn.Module):
    """ResNet-20, -32, -44, -56 for 32x32 images."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        blocks, channels = (depth - 2) // 6, 16
        for i, (width, stride) in enumerate(((16, 1), (32, 2), (64, 2)), 1):
            stage = []
            for j in range(blocks):
                stage.append(CifarBlock(channels, width, 1 if j else stride))
                channels = width
            setattr(self, f"layer{i}", nn.Sequential(*stage))
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        return self.linear(self.layer3(self.layer2(self.layer1(x))).mean((2, 3)))


def cifar_resnet(depth: int) -> nn.Module:
    """ResNet-20 or -56 with the weights of the data folder."""
    model = CifarResNet(depth).eval()
    state = load_file(need("cifar10_jpeg") / f"resnet{depth}.safetensors")
    missing = model.load_state_dict(state, strict=False).missing_keys
    assert all(k.endswith("num_batches_tracked") for k in missing), missing
    return model


def cifar() -> tuple[Tensor, Tensor]:
    """Images ``(10000, 3, 32, 32)`` as the networks want them, and labels."""
    held = np.load(need("cifar10_jpeg") / "test.npz")
    images = torch.from_numpy(held["images"]).permute(0, 3, 1, 2).float() / 255
    return (images - MEAN) / STD, torch.from_numpy(held["labels"]).long()


def cifar_user(images: Tensor, labels: Tensor, seed: int, classes: int, n: int) -> User:
    """A person of some classes: the 1000 images of each class split into two halves."""
    rng = np.random.default_rng(seed)
    chosen = sorted(rng.choice(10, classes, replace=False).tolist())
    own: list[int] = []
    test: list[int] = []
    for c in chosen:
        order = rng.permutation(np.flatnonzero(labels.numpy() == c))
        half = len(order) // 2
        own += order[:half].tolist()
        test += order[half:].tolist()
    taken = rng.permutation(own)[:n]
    return User(f"{classes}of10-{seed}", chosen, images[taken], images[test], labels[test])


# --- Measures
# ---------------------------------------------------------------------------------------


@torch.inference_mode()
def logits(model: nn.Module, x: Tensor, batch: int = 50) -> Tensor:
    """All logits of ``x``."""
    return torch.cat([model(b) for b in x.split(batch)])


def correct(outputs: Tensor, user: User) -> tuple[int, int]:
    """Right answers over all outputs, and when told the user's classes."""
    classes = torch.tensor(user.classes)
    told = classes[outputs[:, classes].argmax(1)]
    return int((outputs.argmax(1) == user.labels).sum()), int((told == user.labels).sum())


def interval(values: Iterable[float]) -> tuple[float, float]:
    """Mean over users or draws, and half the width of its 95 % t-interval."""
    v = np.array(list(values), dtype=float)
    if len(v) < 2:
        return float(v.mean()), math.nan
    return float(v.mean()), float(stats.t.ppf(0.975, len(v) - 1) * v.std(ddof=1) / len(v) ** 0.5)


class Results:
    """A CSV that grows as rows are measured; rows that are there already are not measured again."""

    def __init__(self, name: str) -> None:
        import finepruning

        RESULTS.mkdir(exist_ok=True)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        version = f"finepruning{finepruning.__version__}-torch{torch.__version__.split('+')[0]}"
        self.path = RESULTS / f"{name}-{device}-{version}.csv"
        self.rows: list[dict[str, str]] = []
        if self.path.exists():
            with self.path.open() as file:
                self.rows = list(csv.DictReader(file))

    def measure(self, user: str, n: int, method: str, run: Callable[[], Row]) -> None:
        """Measure and append one row, unless it is there."""
        key = (user, str(n), method)
        if any((r["user"], r["n"], r["method"]) == key for r in self.rows):
            return
        row = {k: _text(v) for k, v in asdict(run()).items()}
        new = not self.path.exists()
        with self.path.open("a", newline="") as file:
            writer = csv.DictWriter(file, list(row))
            if new:
                writer.writeheader()
            writer.writerow(row)
        self.rows.append(row)
        share = int(row["correct"]) / int(row["total"])
        print(f"{user:<14}{n:>5}  {method:<28}{share:7.1%}", file=sys.stderr, flush=True)

    def table(self) -> str:
        """Mean over users or draws of each method, with 95 % intervals, as Markdown."""
        lines = [
            "| n | method | sparsity | all outputs | told the classes | dense passes | peak MB |",
            "|---|---|---|---|---|---|---|",
        ]
        groups: dict[tuple[int, str], list[dict[str, str]]] = {}
        for r in self.rows:
            groups.setdefault((int(r["n"]), r["method"]), []).append(r)
        for (n, method), rows in sorted(groups.items(), key=lambda g: g[0][0]):
            cells = [f"{float(rows[0]['sparsity']):.0%}"]
            for column in ("correct", "told"):
                mean, half = interval(int(r[column]) / int(r["total"]) for r in rows)
                cells.append(f"{mean:.1%}" + ("" if math.isnan(half) else f" ± {half:.1%}"))
            for column, form in (("dense_passes", ".1f"), ("peak_mb", ",.0f")):
                values = [float(r[column]) for r in rows]
                mean = float(np.mean(values))
                cells.append("-" if math.isnan(mean) else format(mean, form))
            lines.append(f"| {n} | {method} | " + " | ".join(cells) + " |")
        return "\n".join(lines)


def _text(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
