"""The benchmark's controls: each does what its paper says, checked against slow and plain code."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

import adapt  # type: ignore[import-not-found]
import controls  # type: ignore[import-not-found]

from finepruning import Config

SPARSITY = 0.6


class Net(nn.Module):
    """Every kind of layer that a control meets: plain, grouped, depthwise, linear, called twice."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, stride=2, groups=8, bias=False)
        self.norm2 = nn.BatchNorm2d(8)
        self.grouped = nn.Conv2d(8, 12, 1, groups=2)
        self.again = nn.Linear(12, 12)
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(self.conv(x)).relu()
        x = self.grouped(self.norm2(self.depthwise(x)).relu()).relu().mean((2, 3))
        return self.head(self.again(self.again(x).relu()).relu())


def net(statistics: bool = True) -> Net:
    """A network, with BatchNorm statistics that are not those of ``X``, or folded ones."""
    model = Net().eval()
    if statistics:
        for m in (model.norm1, model.norm2):
            torch.manual_seed(1)
            m.running_mean += 0.1 * torch.randn(8)
            m.running_var *= 0.5 + torch.rand(8)
    return model


X = torch.randn(40, 3, 9, 9, generator=torch.Generator().manual_seed(0))
BATCHES = list(X.split(8))
WEIGHTS = sum(w.numel() for n, w in Net().named_parameters() if w.ndim > 1)

MENDS = ("", "bn", "bn-relative", "repair")
CASES: list[Any] = [
    *((controls.magnitude, {"across": a}) for a in ("network", "layer")),
    *((controls.wanda, {"across": a}) for a in ("row", "layer", "network")),
    (controls.wanda, {"across": "layer", "plan": "measured"}),
    *((controls.obs, {"plan": p}) for p in ("uniform", "measured")),
]


def logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return torch.cat([model(batch) for batch in BATCHES])


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {n: p.detach() for n, p in model.named_parameters() if p.ndim > 1}


# --- What holds for all of them


@pytest.mark.parametrize("mend", MENDS)
@pytest.mark.parametrize(("prune", "options"), CASES)
def test_counts_and_cost(
    prune: Callable[..., controls.Outcome], options: dict[str, str], mend: str
) -> None:
    model = net()
    before = copy.deepcopy(model.state_dict())
    found = prune(model, BATCHES, SPARSITY, mend=mend, **options)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert not found.model.training

    zeros = sum(int((w == 0).sum()) for w in weights(found.model).values())
    assert found.sparsity == zeros / WEIGHTS
    assert SPARSITY <= found.sparsity < SPARSITY + 1 / WEIGHTS

    # One pass of the dense network where anything of it is used, one of the pruned network for
    # each thing done with it; the solves come on top.
    found_dense = prune is controls.wanda or "measured" in options.values() or mend == "repair"
    assert found.observed is found_dense
    assert found.dense_pass is (found_dense or mend == "bn-relative")
    passes = found.dense_pass
    passes += mend.startswith("bn") + (prune is controls.obs or mend == "repair")
    solves = prune is controls.obs or mend == "repair"
    assert found.forward_passes > passes if solves else found.forward_passes == passes


def test_folded_statistics_take_a_dense_pass_that_is_paid_for(monkeypatch: Any) -> None:
    asked: list[nn.Module] = []
    real = adapt.statistics
    monkeypatch.setattr(controls, "statistics", lambda m, b: asked.append(m) or real(m, b))
    for model, runs in ((net(), 0), (net(statistics=False), 1)):
        seen = controls.Observed(model, BATCHES)
        for times in (1, 2):  # each pays for its own
            found = controls.magnitude(model, BATCHES, SPARSITY, mend="bn", seen=seen)
            assert (found.dense_pass, found.observed) == (bool(runs), False)
            assert found.forward_passes == 1 + runs
            assert len(asked) == times * runs


def test_wanda_keeps_to_our_plan() -> None:
    def kept(found: controls.Outcome) -> list[int]:
        return [int((w != 0).sum()) for w in weights(found.model).values()]

    ours = controls.obs(net(), BATCHES, SPARSITY, plan="measured")
    planned = controls.wanda(net(), BATCHES, SPARSITY, across="layer", plan="measured")
    uniform = controls.wanda(net(), BATCHES, SPARSITY, across="layer")
    assert kept(planned) == kept(ours) != kept(uniform)


def test_one_observation_serves_all() -> None:
    seen = controls.Observed(net(), BATCHES)
    for prune, options in (*CASES[1::2], *CASES[1::2]):
        alone = prune(net(), BATCHES, SPARSITY, mend="repair", **options)
        shared = prune(net(), BATCHES, SPARSITY, mend="repair", seen=seen, **options)
        assert torch.equal(logits(alone.model), logits(shared.model))


# --- Which weights


def test_magnitude_keeps_the_largest_of_the_network() -> None:
    kept = weights(controls.magnitude(net(), BATCHES, SPARSITY, across="network").model)
    given = weights(net())
    least = min(float(w[w != 0].abs().min()) for w in kept.values())
    gone = max(float(given[n][w == 0].abs().max()) for n, w in kept.items())
    assert gone <= least
    assert all(torch.equal(w, given[n] * (w != 0)) for n, w in kept.items())


@pytest.mark.parametrize("across", ["layer", "row"])
def test_every_layer_and_row_keeps_its_share(across: str) -> None:
    found = controls.wanda(net(), BATCHES, SPARSITY, across=across).model
    for w in weights(found).values():
        assert abs(int((w != 0).sum()) - (1 - SPARSITY) * w.numel()) <= 1
        if across == "row":
            rows = (w != 0).flatten(1).sum(1)
            assert int(rows.max() - rows.min()) <= 1


def test_wanda_scores_against_a_loop() -> None:
    model = net()
    config = Config(observe={"inputs_every": 1})  # all positions, not one in eight
    seen = controls.Observed(model, BATCHES, config)
    inputs: list[Tensor] = []
    with torch.no_grad():
        for x in X:
            x = model.norm1(model.conv(x[None])).relu()[0]
            inputs += [
                x[:, i : i + 3, j : j + 3].flatten(1) for i in (0, 2, 4, 6) for j in (0, 2, 4, 6)
            ]
    norm = torch.stack(inputs).square().mean(0).sqrt()  # of each channel's nine inputs
    score = model.depthwise.weight.detach().flatten(1).abs() * norm
    found = controls.wanda(model, BATCHES, SPARSITY, across="layer", seen=seen)
    kept = found.model.depthwise.weight.flatten(1) != 0
    assert torch.equal(kept, score > score.flatten().sort(descending=True).values[int(kept.sum())])


def test_the_best_of_a_row_come_first() -> None:
    score = torch.tensor([[[3.0, 1.0, 2.0], [0.1, 0.3, 0.2]]])
    rank = controls._rank(score).flatten()
    assert rank.argsort(descending=True).tolist() == [0, 4, 2, 5, 1, 3]


# --- OBS


def obs_by_columns(W: Tensor, H: Tensor, keep: int, block: int) -> Tensor:
    """The published rule for one group in float64, with a matrix inverse for every column."""
    W, H = W.double().clone(), H.double().clone()
    D = W.shape[1]
    H += 0.01 * H.diagonal().mean() * torch.eye(D, dtype=torch.float64)
    kept = 0
    for start in range(0, D, block):
        stop = min(start + block, D)
        cost = torch.stack(
            [W[:, d] ** 2 / torch.linalg.inv(H[d:, d:])[0, 0] for d in range(start, stop)], 1
        )
        count = round(keep * stop / D) - kept
        kept += count
        threshold = cost.flatten().sort(descending=True).values[count - 1]
        for d in range(start, stop):
            inverse = torch.linalg.inv(H[d:, d:])
            gone = cost[:, d - start] < threshold
            W[gone, d:] -= torch.outer(W[gone, d] / inverse[0, 0], inverse[0])
            W[gone, d] = 0
    return W


@pytest.mark.parametrize("block", [4, 8, 128])
def test_obs_against_the_published_rule(block: int) -> None:
    generator = torch.Generator().manual_seed(0)
    W = torch.randn(2, 6, 18, generator=generator)
    x = torch.randn(2, 100, 18, generator=generator).cumsum(2)  # strongly correlated
    H = x.mT @ x / 100
    if block < 18:  # the mask of a block is chosen over all groups: compare one group at a time
        W, H = W[:1], H[:1]
        expected = obs_by_columns(W[0], H[0], 40, block)[None]
        found = controls.obs_prune(W, H, 40, block=block)
    else:
        found = controls.obs_prune(W[:1], H[:1], 40)
        expected = obs_by_columns(W[0], H[0], 40, 18)[None]
    assert int((found != 0).sum()) == 40
    assert torch.equal(found != 0, expected != 0)
    torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-3)


def test_obs_makes_up_for_what_it_removes() -> None:
    generator = torch.Generator().manual_seed(0)
    W = torch.randn(3, 8, 20, generator=generator)
    x = torch.randn(3, 200, 20, generator=generator).cumsum(2)
    H = x.mT @ x / 200
    H[2] = 0  # a group whose inputs are all zero

    def missed(V: Tensor) -> float:
        return float((((V - W) @ H) * (V - W)).sum())

    found = controls.obs_prune(W, H, 240)
    assert int((found != 0).sum()) == 240
    assert bool(found.isfinite().all())
    assert missed(found) < 0.2 * missed(W * (found != 0))


# --- Mending


def test_recalibration_is_training_mode_on_all_samples() -> None:
    model, reference = net(), net()
    adapt.recalibrate(model, BATCHES)
    for m in (reference.norm1, reference.norm2):
        m.momentum = None
        m.reset_running_stats()
        m.train()
    with torch.no_grad():
        reference(X)
    for m, r in ((model.norm1, reference.norm1), (model.norm2, reference.norm2)):
        torch.testing.assert_close(m.running_mean, r.running_mean, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(m.running_var, r.running_var, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("statistics", [False, True])
def test_recalibration_relative_to_the_dense_network_leaves_it_alone(statistics: bool) -> None:
    model = net(statistics)
    before = logits(model)
    assert adapt.folded(model) is not statistics
    adapt.recalibrate(model, BATCHES, adapt.statistics(model, BATCHES))
    torch.testing.assert_close(logits(model), before, rtol=1e-4, atol=1e-4)


def normalised(model: Net) -> Tensor:
    """Mean and standard deviation ``(2, C)`` behind the second BatchNorm."""
    with torch.no_grad():
        x = model.norm2(model.depthwise(model.norm1(model.conv(X)).relu()))
    return torch.stack([x.mean((0, 2, 3)), x.std((0, 2, 3))])


@pytest.mark.parametrize("statistics", [False, True])
@pytest.mark.parametrize("mend", ["bn", "bn-relative"])
def test_recalibration_brings_mean_and_variance_back(statistics: bool, mend: str) -> None:
    model = net(statistics)
    found = controls.magnitude(model, BATCHES, 0.4, mend=mend).model
    now = normalised(found)
    if mend == "bn" and statistics:  # what the BatchNorm itself was trained for
        torch.testing.assert_close(
            now, torch.tensor([[0.0], [1.0]]).expand(2, 8), atol=1e-2, rtol=0
        )
    else:  # what the dense network has on this person's data
        alive = found.depthwise.weight.flatten(1).any(1)
        torch.testing.assert_close(now[:, alive], normalised(model)[:, alive], atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize(("prune", "options"), CASES)
def test_repair_brings_mean_and_variance_back(
    prune: Callable[..., controls.Outcome], options: dict[str, str]
) -> None:
    model = net()
    found = prune(model, BATCHES, 0.3, mend="repair", **options).model
    for now, dense in ((logits(found), logits(model)),):
        torch.testing.assert_close(now.mean(0), dense.mean(0), rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(now.std(0), dense.std(0), rtol=1e-2, atol=1e-3)


# --- LAME


def two_clusters() -> tuple[Tensor, Tensor, Tensor]:
    """Logits, features and truth of two tight clusters; the network is wrong on one of ten."""
    generator = torch.Generator().manual_seed(0)
    truth = torch.arange(60) % 2
    features = torch.eye(2)[truth] + 0.1 * torch.randn(60, 2, generator=generator)
    logits = torch.eye(2)[truth] * 2
    logits[::10] = logits[::10].flip(1)
    return logits, features, truth


def test_neighbours_correct_an_error() -> None:
    given, features, truth = two_clusters()
    assert int((given.argmax(1) != truth).sum()) == 6
    found = adapt.lame(given, features, neighbours=10)
    assert torch.equal(found.argmax(1), truth)
    torch.testing.assert_close(found.exp().sum(1), torch.ones(60))


def test_no_weight_changes_nothing() -> None:
    given, features, _ = two_clusters()
    torch.testing.assert_close(adapt.lame(given, features, weight=0.0), given.log_softmax(1))


def test_lame_lowers_its_objective() -> None:
    given, features, _ = two_clusters()
    a = adapt.affinity(features, 5)
    assert torch.equal(a, a.mT)
    objective = [adapt.lame_objective(given.softmax(1), given, a)]
    for steps in range(1, 12):
        z = adapt.lame(given, features, 5, steps=steps).exp()
        objective.append(adapt.lame_objective(z, given, a))
    assert objective[-1] < objective[0] - 1
    assert all(b <= a + 1e-4 for a, b in pairwise(objective))


# --- Tent and fine-tuning


def entropy(log_p: Tensor) -> float:
    log_p = log_p.log_softmax(1)
    return -float((log_p.exp() * log_p).sum(1).mean())


@pytest.mark.parametrize("batch_statistics", [False, True])
def test_tent_lowers_the_entropy_by_normalisations_alone(batch_statistics: bool) -> None:
    model = net()
    before = copy.deepcopy(model.state_dict())
    start = adapt.tent(model, BATCHES, 0.0, 1, batch_statistics=batch_statistics)
    found = adapt.tent(model, BATCHES, 1e-2, 20, batch_statistics=batch_statistics)
    assert entropy(logits(found)) < entropy(logits(start))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    changed = {n for n, v in found.state_dict().items() if not torch.equal(v, before[n])}
    parts = ("weight", "bias", "running_mean", "running_var") if batch_statistics else (
        "weight", "bias"
    )  # fmt: skip
    changed = {n for n in changed if not n.endswith("num_batches_tracked")}
    assert changed == {f"{m}.{part}" for m in ("norm1", "norm2") for part in parts}
    if not batch_statistics:
        torch.testing.assert_close(logits(start), logits(model))


def test_fine_tuning_learns_its_labels() -> None:
    model = net()
    before = copy.deepcopy(model.state_dict())
    labels = torch.arange(len(X)) % 2
    x = X + labels[:, None, None, None]  # also seen in the mirror
    right, seen = [], []
    for epoch, tuned in adapt.fine_tune(model, x, labels + 2, (1, 5, 20), lr=0.01):
        seen.append(epoch)
        assert not tuned.training
        with torch.no_grad():
            right.append(float((tuned(x).argmax(1) == labels + 2).float().mean()))
        state = tuned.state_dict()
        assert all(torch.equal(v, state[k]) for k, v in before.items() if "running" in k)
    assert seen == [1, 5, 20]
    assert right[-1] > 0.9 > right[0]
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
