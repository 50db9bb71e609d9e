"""What is done beside the arithmetic: a deep, narrow network that costs next to nothing to run.

    python benchmarks/overhead.py [--blocks 100] [--batches 16] [--rounds 5] [--smoke]

An MLP of residual blocks and many small batches: each batch stops at each layer, so that what a
stop costs shows, and how it grows with depth. The network's own pass and the efforts take turns;
medians over the rounds are printed. Only the public API is used, so that other versions can be
measured by the same file: PYTHONPATH=other/src python benchmarks/overhead.py
"""

from __future__ import annotations

import argparse
import time
from statistics import median

import torch
from torch import Tensor, nn

import finepruning

EFFORTS = ("fast", "best")
WIDTH, BATCH, CLASSES = 64, 8, 10


class Block(nn.Module):
    """Linear, ReLU, Linear, beside a way round."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(self.up(x).relu())


def dense_seconds(model: nn.Module, batches: list[Tensor]) -> float:
    """What the network itself takes for all batches."""
    with torch.inference_mode():
        started = time.perf_counter()
        for batch in batches:
            model(batch)
        return time.perf_counter() - started


def seconds(model: nn.Module, batches: list[Tensor], effort: str) -> float:
    """What a personalisation takes."""
    started = time.perf_counter()
    finepruning.personalize(model, batches, sparsity=0.7, effort=effort, progress=False)
    return time.perf_counter() - started


def main() -> None:
    """Measure in turns, and print medians."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--blocks", type=int, default=100)
    parser.add_argument("--batches", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--smoke", action="store_true", help="4 blocks, 2 batches, one round")
    args = parser.parse_args()
    blocks, count, rounds = args.blocks, args.batches, args.rounds
    if args.smoke:
        blocks, count, rounds = 4, 2, 1
    torch.manual_seed(0)
    model = nn.Sequential(*[Block() for _ in range(blocks)], nn.Linear(WIDTH, CLASSES)).eval()
    batches = [*torch.randn(count * BATCH, WIDTH).split(BATCH)]
    dense_seconds(model, batches)  # the first calls set PyTorch up
    seconds(model, batches[:2], EFFORTS[0])
    dense: list[float] = []
    took: dict[str, list[float]] = {effort: [] for effort in EFFORTS}
    for _ in range(rounds):
        dense.append(dense_seconds(model, batches))
        for effort in EFFORTS:
            took[effort].append(seconds(model, batches, effort))
    print(f"{blocks} blocks, {count} batches of {BATCH}, medians of {rounds} rounds")
    print("effort   seconds   dense passes   dense ms")
    for effort, each in took.items():
        passes = median(s / d for s, d in zip(each, dense, strict=True))
        print(f"{effort:<7}{median(each):9.2f}{passes:15.0f}{1e3 * median(dense):11.2f}")


if __name__ == "__main__":
    main()
