"""One base, many people, one process: requests of mixed people, answered from a bank.

    python examples/serve.py

Memory is the base, and the weights of the people in the cache. Requests that wait together are
answered person by person, so that each is activated once. Prints how long a request takes, beside
a network of its own for each person.
"""

from __future__ import annotations

import itertools
import random
import tempfile
import time
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

import finepruning
from finepruning import Bank

PEOPLE, CACHE, REQUESTS, WAITING = 6, 3, 200, 16


def network() -> nn.Module:
    """The base that everybody shares: here random, in life a pretrained one."""
    torch.manual_seed(0)
    layers = [nn.Linear(256, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10)]
    return nn.Sequential(*layers).eval()


class Server:
    """Answers of the right person's network; used by one thread."""

    def __init__(self, bank: Bank, model: nn.Module) -> None:
        self.bank, self.model, self.active = bank, model, ""

    @torch.inference_mode()
    def answer(self, waiting: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        """What each of the ``waiting`` requests, a name and an input, gets."""
        in_turn = sorted(waiting, key=lambda r: (r[0] != self.active, r[0]))  # who is there, first
        for name, theirs in itertools.groupby(in_turn, key=lambda r: r[0]):
            if name != self.active:
                self.bank.activate(self.model, name)
                self.active = name
            outputs = self.model(torch.stack([x for _, x in theirs]))
            yield from ((name, y) for y in outputs)


def main() -> None:
    base = network()
    with tempfile.TemporaryDirectory() as folder:
        bank = Bank(folder, base, cache=CACHE)
        for i in range(PEOPLE):
            x = torch.randn(64, 256, generator=torch.Generator().manual_seed(i))
            bank.add(f"user-{i}", finepruning.personalize(base, x, sparsity=0.7, progress=False))
        chance = random.Random(0)
        requests = [(f"user-{chance.randrange(PEOPLE)}", torch.randn(256)) for _ in range(REQUESTS)]

        own = {name: bank.load(name) for name in bank}
        started = time.perf_counter()
        with torch.inference_mode():
            right = [(name, own[name](x[None])[0]) for name, x in requests]
        alone = time.perf_counter() - started

        server = Server(bank, network())
        started = time.perf_counter()
        answers = [
            answer
            for at in range(0, REQUESTS, WAITING)
            for answer in server.answer(requests[at : at + WAITING])
        ]
        took = time.perf_counter() - started
    assert len(answers) == len(right)
    for name in own:
        theirs = (torch.stack([y for n, y in found if n == name]) for found in (answers, right))
        torch.testing.assert_close(*theirs)
    print(f"{PEOPLE} people, {CACHE} in memory, {REQUESTS} requests, {WAITING} waiting at a time")
    print(f"a network each  {1e3 * alone / REQUESTS:.2f} ms a request")
    print(f"one base        {1e3 * took / REQUESTS:.2f} ms a request")


if __name__ == "__main__":
    main()
