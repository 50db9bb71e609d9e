"""Accuracy and cost of every method for many users, on data that was not adapted to.

    python benchmarks/accuracy.py dogs|breeds|cifar|unequal|shift|speech
        [--methods best,fast,...] [--users 10] [--sparsities 0.5,0.7] [--ns 16,128,all]
        [--networks resnet20] [--smoke]

The rows go to a file in ``results/`` for each network. Rows that are there are not measured again,
so an interrupted run goes on where it stopped; delete rows to have them measured anew.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import adapt
from case import Case, Dense
from measure import Results, result_file
from methods import METHODS
from networks import load_network
from users import NETWORKS, USERS, User

DEFAULT_USERS = {"dogs": 5, "breeds": 20, "cifar": 10, "unequal": 10, "shift": 5, "speech": 6}


def sized(user: User, ns: list[str]) -> Iterator[User]:
    """The user with each number of unlabelled samples that there are enough of."""
    for n in dict.fromkeys(user.n if n == "all" else int(n) for n in ns):
        if n <= user.n:
            yield user.holding(n)


def run(results: Results, case: Case, methods: list[str], sparsities: list[float]) -> None:
    """Measure what is missing for one user."""
    for name in methods:
        method = METHODS[name]
        if method.unfolded and adapt.folded(case.model):
            continue
        for wanted in sparsities if method.prunes else [0.0]:
            if all(results.has(case.user, row, wanted) for row in method.rows):
                continue
            for row, answer in method.run(case, wanted).items():
                results.add(case.user, row, wanted, answer)


def main() -> None:
    """Run one benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("data", choices=USERS)
    parser.add_argument("--methods", default="all", help=",".join(METHODS))
    parser.add_argument("--sparsities", default="0.7")
    parser.add_argument("--ns", default="128", help="unlabelled samples, such as 16,32,all")
    parser.add_argument("--users", type=int, help="users, or draws of the dogs")
    parser.add_argument("--networks", help="such as resnet20,resnet56")
    parser.add_argument("--smoke", action="store_true", help="a few samples of one user")
    args = parser.parse_args()
    methods = list(METHODS) if args.methods == "all" else args.methods.split(",")
    unknown = [m for m in methods if m not in METHODS]
    if unknown:
        parser.error(f"no method {unknown[0]!r}; there are {', '.join(METHODS)}")
    sparsities = [float(s) for s in args.sparsities.split(",")]
    networks = args.networks.split(",") if args.networks else NETWORKS[args.data]
    users, ns = args.users or DEFAULT_USERS[args.data], args.ns.split(",")
    if args.smoke:
        users, ns, sparsities, networks = 1, ["8"], sparsities[:1], networks[:1]
    for network in networks:
        name = f"{args.data}-{network}"
        path = result_file(f"{name.removesuffix('-smoke')}-smoke" if args.smoke else name)
        if args.smoke:
            path.unlink(missing_ok=True)
        results = Results(path)
        model = load_network(network)
        dense = Dense(model)
        sets: set[tuple[str, frozenset[int], frozenset[int]]] = set()
        people = USERS[args.data](users)
        if args.smoke:  # the last, of whose kind there is most to go wrong
            people = iter([[*people][-1].holding(8, tests=24)])
        for person in people:
            for user in sized(person, ns):
                # Draws of all photos are one draw.
                held = (user.kind, frozenset(user.own.tolist()), frozenset(user.tested.tolist()))
                if held not in sets:
                    sets.add(held)
                    run(results, Case(model, user, dense), methods, sparsities)


if __name__ == "__main__":
    main()
