"""How channels go, chosen where nothing of it is reported: CIFAR ResNet-20 and -56, four people.

    python benchmarks/device_choose.py [--people 4] [--macs 0.4]

For each option: accuracy told the person's classes, and what of the dense network's outputs is
missed (mean square over variance, on held-out images), which is steadier. No read-out, neighbours
or check.
"""

from __future__ import annotations

import argparse
import time
import warnings
from typing import Any

import numpy as np
import torch
from networks import load_network
from users import cifar_users

import finepruning
from finepruning import Config

N = 128
AS_IT_IS = "as it is"
OPTIONS: dict[str, dict[str, Any]] = {
    AS_IT_IS: {},
    "no mirror": {"mirror": 0.0},
    **{f"rectify {k}": {"rectify": k} for k in (0, 1, 2, 3, 6)},
    **{f"at once a {k}th": {"channels": {"at_once": k}} for k in (6, 12, 24)},
    "any number of channels": {"channels": {"multiple": 1}},
}
ALONE: dict[str, Any] = {"readout": False, "check": False, "neighbours": {"weight": 0.0}}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--people", type=int, default=4)
    parser.add_argument("--macs", type=float, default=0.4)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    for network in ("resnet20", "resnet56"):
        model = load_network(network)
        found: dict[str, list[tuple[float, float, float]]] = {option: [] for option in OPTIONS}
        for user in cifar_users(args.people):
            classes = torch.tensor(user.classes)
            batches = [*user.unlabelled[:N].split(16)]
            with torch.no_grad():
                dense = model(user.test)
            for option, structure in OPTIONS.items():
                config = Config.from_dict({"structure": {"macs": args.macs, **structure}, **ALONE})
                started = time.perf_counter()
                result = finepruning.personalize(model, batches, config=config, progress=False)
                took = time.perf_counter() - started
                with torch.no_grad():
                    outputs = result.model(user.test)
                right = classes[outputs[:, classes].argmax(1)] == user.labels
                missed = (outputs - dense).square().mean() / dense.var(0).mean()
                found[option].append((100 * float(right.float().mean()), float(missed), took))
        for option, rows in found.items():
            told, missed_, took = np.mean(rows, 0)
            print(f"{network} {option:24} told {told:.1f} missed {missed_:.3f} {took:.1f} s")


if __name__ == "__main__":
    main()
