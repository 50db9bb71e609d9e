"""How long it takes to make a network another person's, in place, beside a copy of its weights.

    python benchmarks/swap.py [--rounds 15]

ResNet-50 of random weights, 70 % of them zero, two people in a bank; paired, in milliseconds.
*copy* writes all weights over once; *swap* reads, checks and activates the other person; *cached*
does so with both in memory; *back* makes it the base again, after a cached swap. *answer* is one
picture of 224 pixels by a network of that person's own; *cached, answer* and *swap, answer* the
same from the bank, each time another person's.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

import finepruning
from finepruning import Bank
from finepruning.research import paired, processor, resnet

PICTURE = torch.randn(1, 3, 224, 224)
KINDS = ("exact", "int8", "differences", "mask")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--kinds", nargs="+", default=KINDS[:1], choices=KINDS)
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(2)
    base = resnet("resnet50").eval()
    source = [torch.randn_like(p) for p in base.parameters()]
    target = [torch.empty_like(p) for p in base.parameters()]

    def copied() -> None:
        for there, here in zip(target, source, strict=True):
            there.copy_(here)

    print(processor())
    for kind in args.kinds:
        with tempfile.TemporaryDirectory() as folder:
            bank, cached = Bank(folder, base), Bank(folder, base, cache=2)
            method = "gains" if kind == "mask" else "compensate"
            for person in ("one", "two"):
                x = torch.randn(8, 3, 64, 64)
                config = finepruning.Config(
                    effort="fast", sparsity=0.7, check=False, fit={"method": method}
                )
                result = finepruning.personalize(base, x, config=config, progress=False)
                result.save(bank.folder / person, values=kind, base=base)
            calls = {
                "copy": copied,
                "swap": _in_turn(bank, base),
                "cached": _in_turn(cached, base),
                "back": partial(cached.deactivate, base),
            }
            own = bank.load("one")
            calls["answer"] = partial(_answer, own, lambda: None)
            calls["cached, answer"] = partial(_answer, base, calls["cached"])
            calls["swap, answer"] = partial(_answer, base, calls["swap"])
            for timing in paired(calls, "copy", args.rounds):
                print(
                    f"{kind:12} {timing.name:15} {timing.median:8.2f} ms"
                    f" ({timing.low:.2f} to {timing.high:.2f}), {1 / timing.times:.2f} copies"
                )
            bank.deactivate(base)


@torch.inference_mode()
def _answer(model: nn.Module, first: Callable[[], None], x: Tensor = PICTURE) -> None:
    first()
    model(x)


def _in_turn(bank: Bank, model: nn.Module) -> Callable[[], None]:
    turn = [0]

    def swap() -> None:
        turn[0] += 1
        bank.activate(model, ("one", "two")[turn[0] % 2])

    return swap


if __name__ == "__main__":
    main()
