"""Word and character errors of a CTC network that is personalised to a speaker.

    python benchmarks/wer.py [--users 6] [--sparsities 0.5,0.7] [--networks speller] [--smoke]

The speaker's unlabelled half of the recordings is adapted to, the other half is transcribed, and
then the two change places. The rows go to a file in ``results/`` for each network; rows that are
there are not measured again.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import controls
import torch
from measure import append_row, read_rows, result_file
from networks import load_network
from speech_data import recordings
from speech_networks import Reader
from torch import Tensor, nn
from users import User, speech_users

import finepruning
from finepruning import evaluate_transcripts
from finepruning.research import BATCH_SIZE


@dataclass
class WerRow:
    """What one network wrote for one fold of a speaker's tests, and what it took to get there.

    Errors are substitutions, deletions and insertions. ``wanted`` is the sparsity asked for.
    """

    user: str
    n: int
    method: str
    wanted: float
    sparsity: float
    words: int
    word_errors: int
    characters: int
    character_errors: int
    seconds: float
    forward_passes: float


def word_rate(rows: Sequence[WerRow]) -> float:
    """Word errors of all rows together, over their words."""
    return sum(row.word_errors for row in rows) / sum(row.words for row in rows)


def character_rate(rows: Sequence[WerRow]) -> float:
    """Character errors of all rows together, over their characters."""
    return sum(row.character_errors for row in rows) / sum(row.characters for row in rows)


Pruned = tuple[nn.Module, float, float]
"""A network, its sparsity, and what it took in forward passes."""


def ours(effort: str) -> Callable[[nn.Module, Tensor, float], Pruned]:
    """finepruning as it is shipped."""

    def prune(model: nn.Module, x: Tensor, sparsity: float) -> Pruned:
        found = finepruning.personalize(model, x, sparsity=sparsity, effort=effort, progress=False)
        return found.model, found.report.sparsity, found.report.forward_passes

    return prune


def magnitude(mend: str) -> Callable[[nn.Module, Tensor, float], Pruned]:
    """The control."""

    def prune(model: nn.Module, x: Tensor, sparsity: float) -> Pruned:
        batches = list(torch.split(x, BATCH_SIZE))
        found = controls.magnitude(model, batches, sparsity, mend=mend)
        return found.model, found.sparsity, found.forward_passes

    return prune


def dense(model: nn.Module, x: Tensor, sparsity: float) -> Pruned:
    """The network as it came."""
    return model, 0.0, 0.0


METHODS = {
    "dense": dense,
    "finepruning best": ours("best"),
    "finepruning fast": ours("fast"),
    "magnitude, global": magnitude(""),
    "magnitude, global + repair": magnitude("repair"),
}


def measure(model: nn.Module, user: User, words: list[str], method: str, wanted: float) -> WerRow:
    """Adapt to a user's unlabelled recordings, and transcribe the tests."""
    started = time.perf_counter()
    personal, sparsity, passes = METHODS[method](model, user.unlabelled, wanted)
    seconds = time.perf_counter() - started
    texts = [words[i] for i in user.labels.tolist()]
    found = evaluate_transcripts(personal, Reader(), [(user.test, texts)])
    return WerRow(
        user.name, user.n, method, wanted, sparsity, found.words, found.word_errors,
        found.characters, found.character_errors, seconds, passes,
    )  # fmt: skip


def main() -> None:
    """Measure what is missing."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--users", type=int, default=6)
    parser.add_argument("--sparsities", default="0.5,0.7")
    parser.add_argument("--networks", default="speller")
    parser.add_argument("--smoke", action="store_true", help="a few samples of one user")
    args = parser.parse_args()
    sparsities = [float(s) for s in args.sparsities.split(",")]
    words = recordings("users", 1).words
    for network in args.networks.split(","):
        name = f"wer-{network}"
        path = result_file(f"{name.removesuffix('-smoke')}-smoke" if args.smoke else name)
        path.parent.mkdir(exist_ok=True)
        if args.smoke:
            path.unlink(missing_ok=True)
        there = {(row.user, row.method, row.wanted) for row in read_rows(path, WerRow)}
        model = load_network(network)
        people = [user for user in speech_users(args.users) if len(user.classes) == len(words)]
        if args.smoke:
            people, sparsities = [people[0].holding(8, tests=24)], sparsities[:1]
        for user in people:
            for method in METHODS:
                for wanted in [0.0] if method == "dense" else sparsities:
                    if (user.name, method, wanted) in there:
                        continue
                    row = measure(model, user, words, method, wanted)
                    append_row(path, row)
                    print(
                        f"{row.user:<20}{row.method:<28}{row.sparsity:5.0%}"
                        f"  words {word_rate([row]):6.1%}"
                        f"  characters {character_rate([row]):6.1%}",
                        file=sys.stderr,
                        flush=True,
                    )


if __name__ == "__main__":
    main()
