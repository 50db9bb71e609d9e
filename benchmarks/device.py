"""What the device gets: ResNet-50 for an owner of ten dog breeds, smaller, faster, how accurate.

    python benchmarks/device.py [--draws 3] [--smoke]
    python benchmarks/device.py --time      latencies of the files of draw 0, in one paired run

Each point is a number of pixels and a share of the multiply-accumulates that stays; it is shrunk,
exported, and scored as ONNX Runtime runs it, in float32 and in int8. Beside each stand the controls
with nothing pruned: fewer pixels, int8, and both; and at some, channels chosen by the norms of
their weights, as libraries do. 128 unlabelled photos; accuracy over all 1,000 outputs, and told the
ten classes.
"""

from __future__ import annotations

import argparse
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import append_row, read_rows, result_file
from networks import load_network, need
from torch import Tensor, nn
from users import dogs_users

import finepruning
from finepruning import Config, Deployed, Preprocess, export, shrink
from finepruning.research import find_images, paired, processor, read_image, sizes

FILES = Path(__file__).parent.parent / "build" / "device"
N = 128
POINTS = ((160, 0.6), (128, 0.6), (160, 0.4), (128, 0.4), (128, 0.25))
WHOLE = ((224, 1.0), (192, 1.0), (160, 1.0), (144, 1.0), (128, 1.0), (112, 1.0), (96, 1.0))
FORMS = ("float32", "int8")
ELIMINATED, WEIGHTS = "MACs", "weights"
MAGNITUDE = {"channels": {"rule": "magnitude"}}
HOW: dict[str, dict[str, Any]] = {
    ELIMINATED: {},
    WEIGHTS: {},
    "MACs, by magnitude": {"structure": MAGNITUDE},
    "MACs, by magnitude, mean and variance alone": {
        "structure": {**MAGNITUDE, "mirror": 0.0},
        "fit": {"method": "rescale"},
    },
}
"""What a part stays of; and how channels are chosen and the rest fitted, if not as we do it."""
CONTROLS = tuple((160, 0.6, how) for how in [*HOW][2:])
SIZES = tuple((160, part, WEIGHTS) for part in (0.45, 0.4, 0.3))


@dataclass
class DeviceRow:
    """How one file does."""

    draw: int
    pixels: int
    part: float
    """Share of the multiply-accumulates (or weights) that stays; 1: nothing is pruned."""
    how: str
    form: str
    correct: int
    told: int
    total: int
    seconds: float
    """That personalising took; of nothing pruned 0."""
    params: int
    bytes: int
    download: int


@dataclass
class LatencyRow:
    """How fast one file is, beside the dense one."""

    pixels: int
    part: float
    how: str
    form: str
    batch: int
    processor: str
    median: float
    low: float
    high: float
    times: float


class Photos:
    """Photos of one draw, at any number of pixels."""

    def __init__(self, draw: int, smoke: bool) -> None:
        root = need("imagenet") / "dogs"
        self._paths = find_images(root / "unlabelled")[0] + find_images(root / "test")[0]
        self.user = [*dogs_users(draw + 1)][draw]
        self.own, self.test = self.user.own[: 16 if smoke else N], self.user.tested
        self.test = self.test[:: 25 if smoke else 1]

    def tensors(self, numbers: Tensor, pixels: int) -> Tensor:
        """The network's inputs ``(N, 3, pixels, pixels)``."""
        preprocess = prepared(pixels)
        with ThreadPoolExecutor(2) as threads:
            paths = [self._paths[i] for i in numbers.tolist()]
            return torch.stack([*threads.map(lambda p: preprocess(read_image(p)), paths)])


def prepared(pixels: int) -> Preprocess:
    """The usual share of the picture, at fewer pixels."""
    return Preprocess(resize=round(pixels * 256 / 224), crop=pixels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--time", action="store_true")
    parser.add_argument("--smoke", action="store_true", help="few photos, one point, its control")
    args = parser.parse_args()
    need("imagenet")
    if args.time:
        latencies()
        return
    path = result_file("device-resnet50" + "-smoke" * args.smoke)
    path.parent.mkdir(exist_ok=True)
    if args.smoke:
        path.unlink(missing_ok=True)
    done = {(r.draw, r.pixels, r.part, r.how) for r in read_rows(path, DeviceRow)}
    points = [(64, 1.0, ELIMINATED), (64, 0.5, ELIMINATED)]
    if not args.smoke:
        points = [*((p, m, ELIMINATED) for p, m in (*WHOLE, *POINTS)), *SIZES, *CONTROLS]
    model = load_network("resnet50")
    for draw in range(1 if args.smoke else args.draws):
        photos = Photos(draw, args.smoke)
        for pixels, part, how in points:
            # Nothing pruned is the same for all draws: they differ in the unlabelled photos.
            once = part == 1 or how not in (ELIMINATED, WEIGHTS)
            if (draw, pixels, part, how) not in done and not (draw and once):
                for row in measured(model, photos, draw, pixels, part, how):
                    append_row(path, row)
                    share = [f"{100 * n / row.total:5.1f}" for n in (row.correct, row.told)]
                    print(draw, pixels, part, how, row.form, *share, f"{row.bytes / 1e6:.1f} MB",
                          f"{row.seconds:.0f} s", flush=True)  # fmt: skip


def measured(
    model: nn.Module, photos: Photos, draw: int, pixels: int, part: float, how: str
) -> list[DeviceRow]:
    """One point, in both forms."""
    own = photos.tensors(photos.own, pixels)
    seconds, network = 0.0, model
    if part < 1:
        started = time.perf_counter()
        options = HOW[how]
        target = "params" if how == WEIGHTS else "macs"
        structure = {target: part, **options.get("structure", {})}
        config = Config(**{**options, "structure": structure})
        result = finepruning.personalize(model, own.split(16), config=config, progress=False)
        seconds = time.perf_counter() - started
        network = shrink(result.model, own[:2]).model
    test, rows = photos.tensors(photos.test, pixels).numpy(), []
    for form in FORMS:
        file = FILES / f"{draw}-{pixels}-{part}-{how}-{form}.onnx"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.unlink(missing_ok=True)
        calibration = own.split(16) if form == "int8" else None
        export(network, file, own[:2], preprocess=prepared(pixels), int8=calibration)
        deployed = Deployed(file)
        outputs = np.concatenate([deployed.run(x) for x in np.array_split(test, 16)])
        labels, told = photos.user.pool.truth[photos.test].numpy(), np.array(photos.user.classes)
        among = told[outputs[:, told].argmax(1)]
        held, download = sizes([file])
        rows.append(
            DeviceRow(
                draw,
                pixels,
                part,
                how,
                form,
                int((outputs.argmax(1) == labels).sum()),
                int((among == labels).sum()),
                len(labels),
                seconds,
                sum(p.numel() for p in network.parameters()),
                held,
                download,
            )
        )
        if draw or how not in (ELIMINATED, WEIGHTS):
            file.unlink()  # those of draw 0 are timed
    return rows


def latencies() -> None:
    """Time the files of draw 0 in turn, two threads."""
    path = result_file("devicetime-resnet50")
    path.unlink(missing_ok=True)
    wanted = [*((p, m, ELIMINATED) for p, m in (*WHOLE, *POINTS)), *SIZES]
    points = [(*point, form) for point in wanted for form in FORMS]
    files = {point: FILES / "0-{}-{}-{}-{}.onnx".format(*point) for point in points}
    deployed = {point: Deployed(file, 2) for point, file in files.items() if file.is_file()}
    for batch in (1, 16):
        inputs = {p[0]: np.zeros((batch, 3, p[0], p[0]), np.float32) for p in deployed}
        for x in inputs.values():
            x += np.random.default_rng(0).normal(size=x.shape).astype(np.float32)
        names = {"{} {} {} {}".format(*point): point for point in deployed}
        calls = {n: _call(deployed[p], inputs[p[0]]) for n, p in names.items()}
        for timing in paired(calls, next(iter(calls)), 15):
            row = LatencyRow(
                *names[timing.name], batch, processor(),
                timing.median, timing.low, timing.high, timing.times,
            )  # fmt: skip
            append_row(path, row)
            print(f"{timing.name:24} batch {batch:2} {timing.median:8.1f} ms {timing.times:6.2f}")


def _call(deployed: Deployed, x: np.ndarray) -> object:
    return lambda: deployed.run(x)


if __name__ == "__main__":
    main()
