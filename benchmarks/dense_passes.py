"""What a personalisation costs, in passes of the dense network over the same samples.

    python benchmarks/dense_passes.py [NAME ...]

Needs timm. Sparsity 0.7, or half of the multiply-accumulates (channels); 32 samples of 224 pixels
in batches of 8; two threads; weights are random, which takes as long as others. *bookkeeping* is
the share of the time spent in our own Python code that moves data and copies modules, and not in a
product: looked at every 5 ms.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import threading
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import torch

import finepruning

NAMES = (
    *("resnet18", "resnet50", "densenet121", "vit_tiny_patch16_224", "deit_small_patch16_224"),
    *("swin_tiny_patch4_window7_224", "convnext_atto", "regnety_004", "mobilenetv3_large_100"),
    *("efficientnet_lite0", "lcnet_100"),
)
SAMPLES, BATCH, REPEATS = 32, 8, 3
KINDS: dict[str, dict[str, Any]] = {
    "fast": {"effort": "fast", "sparsity": 0.7},
    "best": {"effort": "best", "sparsity": 0.7},
    "channels": {"macs": 0.5},
}
OURS = ("replica", "engine", "taps", "functional", "memory", "ambient", "copying")


def main() -> None:
    import timm

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", default=NAMES)
    warnings.simplefilter("ignore")
    torch.set_num_threads(2)
    print(
        f"{'network':32} {'modules':>7} {'dense s':>8} {'fast':>6} {'best':>6} {'channels':>9}"
        f" {'bookkeeping':>12}"
    )
    for name in parser.parse_args().names:
        torch.manual_seed(0)
        model = timm.create_model(name, num_classes=20).eval()
        batches = [*torch.randn(SAMPLES, 3, 224, 224).split(BATCH)]
        dense = [_dense(model, batches) for _ in range(REPEATS)]
        took, where = {}, Counter[str]()
        for kind, options in KINDS.items():
            with _Sampler() as sampler:
                started = time.perf_counter()
                finepruning.personalize(model, batches, progress=False, **options)
                took[kind] = time.perf_counter() - started
            where += sampler.files
            dense.append(_dense(model, batches))  # machines get warm: before and after
        one = statistics.median(dense)
        share = sum(where[f] for f in (*OURS, "copy")) / sum(where.values())
        print(
            f"{name:32} {len([*model.modules()]):7} {one:8.2f} {took['fast'] / one:6.1f}"
            f" {took['best'] / one:6.1f} {took['channels'] / one:9.1f} {share:12.3f}",
            flush=True,
        )


def _dense(model: torch.nn.Module, batches: list[torch.Tensor]) -> float:
    started = time.perf_counter()
    with torch.no_grad():
        for batch in batches:
            model(batch)
    return time.perf_counter() - started


class _Sampler:
    """Which file the main thread is in, every 5 ms."""

    def __enter__(self) -> _Sampler:
        self.files: Counter[str] = Counter()
        self._main, self._stop = threading.get_ident(), threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._stop.wait(0.005):
            frame = sys._current_frames().get(self._main)
            if frame is not None:
                self.files[_place(frame.f_code.co_filename)] += 1


def _place(path: str) -> str:
    """One of OURS, or ``copy`` of the standard library; empty: another."""
    file = Path(path)
    ours = file.parent.name == "network" or file.name == "copy.py"
    return file.stem if ours else ""


if __name__ == "__main__":
    main()
