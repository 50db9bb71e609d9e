"""Accuracy of the personalised network beside the dense one, on held-out data.

    python benchmarks/accuracy.py dogs     ResNet-50, ten dog breeds, 128 photos (5 draws), 250
    python benchmarks/accuracy.py cifar    ResNet-20 and -56, 3 of 10 classes, 128 images, 10 users

Options: --efforts best,fast,paper  --draws 5  --users 10  --quick (a few images: a smoke test)
Rows already measured are kept, so an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import torch
from protocol import (
    Results,
    Row,
    User,
    cifar,
    cifar_resnet,
    cifar_user,
    correct,
    dogs,
    logits,
    resnet50,
)
from torch import nn

import finepruning
from finepruning._readout import read_out


def measure(results: Results, model: nn.Module, user: User, efforts: list[str]) -> None:
    """All methods for one user: controls first, ours below."""
    n = len(user.unlabelled)
    cache: dict[str, torch.Tensor] = {}

    def outputs(which: str) -> torch.Tensor:
        if which not in cache:
            cache[which] = logits(model, getattr(user, which))
        return cache[which]

    def row(method: str, found: torch.Tensor, sparsity: float = 0.0, **cost: float) -> Row:
        right, told = correct(found, user)
        return Row(user.name, n, method, sparsity, right, told, len(user.labels), **cost)

    def dense_read_out() -> Row:
        shift = read_out(outputs("unlabelled").double().numpy()).shift
        return row("dense + read-out", outputs("test") + torch.from_numpy(shift).float())

    def personal(effort: str) -> Row:
        started = time.perf_counter()
        result = finepruning.personalize(model, user.unlabelled, sparsity=0.7, effort=effort)
        seconds = time.perf_counter() - started
        report = result.report
        with tempfile.TemporaryDirectory() as folder:
            result.save(Path(folder, "me"))
            size = sum(f.stat().st_size for f in Path(folder, "me").iterdir())
        return row(
            f"finepruning {effort}",
            logits(result.model, user.test),
            report.sparsity,
            seconds=seconds,
            dense_passes=report.dense_passes,
            forward_passes=report.forward_passes,
            peak_mb=(report.peak_memory or 0) / 1e6,
            artifact_bytes=size,
        )

    results.measure(user.name, n, "dense", lambda: row("dense", outputs("test")))
    results.measure(user.name, n, "dense + read-out", dense_read_out)
    for effort in efforts:
        results.measure(user.name, n, f"finepruning {effort}", lambda e=effort: personal(e))


def main() -> None:
    """Run one benchmark and print its table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("data", choices=["dogs", "cifar"])
    parser.add_argument("--efforts", default="best,fast,paper")
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--users", type=int, default=10)
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    efforts = args.efforts.split(",")
    quick = "-quick" if args.quick else ""
    if args.data == "dogs":
        model, (own, test, labels, classes) = resnet50(), dogs()
        if args.quick:
            test, labels = test[::25], labels[::25]
        results = Results(f"dogs-resnet50{quick}")
        for draw in range(1 if args.quick else args.draws):
            order = torch.randperm(len(own), generator=torch.Generator().manual_seed(draw))
            taken = own[order[: 8 if args.quick else 128]]
            measure(results, model, User(f"draw-{draw}", classes, taken, test, labels), efforts)
        if not args.quick:
            measure(results, model, User("all", classes, own, test, labels), efforts)
        print(results.table())
        return
    images, labels = cifar()
    for depth in (20,) if args.quick else (20, 56):
        results = Results(f"cifar-resnet{depth}{quick}")
        model = cifar_resnet(depth)
        for seed in range(1 if args.quick else args.users):
            user = cifar_user(images, labels, seed, 3, 32 if args.quick else 128)
            measure(results, model, user, efforts)
        print(f"ResNet-{depth}\n{results.table()}")


if __name__ == "__main__":
    main()
