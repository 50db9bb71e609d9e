"""What the dense network shows: calls, positions, statistics, logits, and no more than fits."""

from __future__ import annotations

from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from finepruning import FinepruningError
from finepruning.data.batches import logits_of, read_batches
from finepruning.network.find import find_layers
from finepruning.network.norms import find_norms
from finepruning.steps.observation import Observation, ObserveOptions
from finepruning.steps.observe import observe
from passes import engine_of

X = torch.randn(40, 3, 6, 5)


def convnet() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(48, 5)
    ).eval()


def look(
    model: nn.Module,
    data: Iterable[Any] = X.split(8),
    *,
    positions: int = 10**6,
    every: int = 1,
    memory: float = 1e9,
    seed: int = 0,
    count: int | None = None,
) -> Observation:
    engine = engine_of(model)
    options = ObserveOptions(positions=positions, inputs_every=every, memory=memory)
    return observe(
        engine, find_layers(engine.model), find_norms(engine.model), read_batches(data),
        options=options, seed=seed, batch_count=count, step=lambda n: None,
    )  # fmt: skip


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.a(self.a(x))


class Wrapped(nn.Module):
    """Gives the logits in another form."""

    def __init__(self, wrap: Any) -> None:
        super().__init__()
        self.head, self.wrap = nn.Linear(4, 3), wrap

    def forward(self, x: Tensor) -> Any:
        return self.wrap(self.head(x))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda y: y,
        lambda y: (y, 0),
        lambda y: [y],
        lambda y: {"loss": None, "logits": y},
        lambda y: {"out": y},
        lambda y: SimpleNamespace(logits=y),
        lambda y: SimpleNamespace(logits=(y, 1)),
    ],
)
def test_logits_in_any_form(wrap: Any) -> None:
    model = Wrapped(wrap)
    seen = look(model, torch.randn(8, 4))
    assert seen.trace.head is not None
    assert seen.logits is not None
    assert seen.logits.shape == (8, 3)
    assert logits_of(None) is None


def test_statistics_and_outputs_are_the_networks() -> None:
    model = convnet()
    seen = look(model, every=1)
    assert (seen.samples, seen.calibration_samples) == (40, 40)
    with torch.inference_mode():
        torch.testing.assert_close(seen.logits, model(X))
        y = model[:3](X)  # (40, 4, 4, 3)
    got = torch.cat([seen.evidence["2"].sampled[i].y for i in range(5)], 1)
    torch.testing.assert_close(got[0], y.flatten(2).transpose(1, 2).reshape(-1, 4))
    outputs = seen.evidence["2"].outputs
    torch.testing.assert_close(outputs.mean[0].float(), y.mean((0, 2, 3)))
    torch.testing.assert_close(outputs.variance[0].float(), y.var((0, 2, 3), correction=0))
    columns = nn.functional.unfold(model[:2](X), 3).transpose(1, 2).reshape(-1, 36).detach()
    inputs = seen.evidence["2"].inputs
    torch.testing.assert_close(inputs.energy[0].float(), (columns**2).mean(0))
    variance = columns.var(0, correction=0)
    torch.testing.assert_close(inputs.variance[0].float(), variance, atol=1e-5, rtol=1e-4)
    assert seen.evidence["2"].positions == 40 * 12


@pytest.mark.parametrize("positions", [40, 200, 500])
def test_positions_are_sampled(positions: int) -> None:
    """About as many as asked, spread over all samples, none twice, and where they say they are."""
    model = convnet()
    seen = look(model, positions=positions, count=5)
    for name, size in {"0": 30, "2": 12, "4": 1}.items():
        kept = [seen.evidence[name].sampled[i] for i in range(5)]
        per_sample = min(size, -(-positions // 40))
        for k in kept:
            assert k.size == (8, size)
            assert k.position.max() < size
            places = list(zip(k.sample.tolist(), k.position.tolist(), strict=True))
            assert len(set(places)) == len(places) == 8 * per_sample
    with torch.inference_mode():
        y = model[:3](X[:8]).flatten(2)
    kept = seen.evidence["2"].sampled[0]
    torch.testing.assert_close(kept.y[0], y[kept.sample, :, kept.position])


def test_seed_draws_the_positions() -> None:
    def drawn(seed: int) -> list[int]:
        seen = look(convnet(), positions=100, seed=seed, count=5)
        return seen.evidence["0"].sampled[0].position.tolist()

    assert drawn(0) == drawn(0) != drawn(1)


@pytest.mark.parametrize("count", [None, 5])
def test_a_generator_gives_the_same_as_a_list(count: int | None) -> None:
    a, b = (look(convnet(), data, positions=200, count=c) for data, c in (
        (X.split(8), 5), (iter(X.split(8)), count)
    ))  # fmt: skip
    assert torch.equal(a.logits, b.logits)
    for name in a.evidence:
        for i in range(5):
            assert torch.equal(a.evidence[name].sampled[i].y, b.evidence[name].sampled[i].y)


@pytest.mark.parametrize("count", [None, 5])
def test_memory_bounds_the_calibration_set(count: int | None) -> None:
    model = convnet()
    room = 17
    memory = room * 1.5 * 4 * 30 * 7
    seen = look(model, memory=memory, count=count)
    assert seen.samples == 40
    assert seen.calibration_samples == 16  # whole batches
    assert seen.logits.shape == (40, 5)
    assert len(seen.evidence["0"].sampled) == 2
    with torch.inference_mode():
        torch.testing.assert_close(seen.logits, model(X))
    first = [torch.equal(b.inputs, X[i * 8 : i * 8 + 8]) for i, b in enumerate(seen.calibration)]
    if count is None:
        assert all(first)  # what streams by is taken as it comes


def test_known_batches_are_drawn_by_seed() -> None:
    def starts(seed: int) -> set[float]:
        seen = look(convnet(), memory=17 * 1.5 * 4 * 30 * 7, seed=seed, count=5)
        return {float(b.inputs[0, 0, 0, 0]) for b in seen.calibration[-2:]}

    assert starts(0) == starts(0)
    assert len({frozenset(starts(s)) for s in range(6)}) > 1


def test_reading_ahead_holds_no_more_than_the_calibration_set() -> None:
    """A stream is not read to its end before the first batch has run."""
    read = []

    def stream() -> Iterable[Tensor]:
        for i, x in enumerate(X.split(8)):
            read.append(i)
            yield x

    class Noting(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            most.append(len(read))
            return x

    most: list[int] = []
    look(nn.Sequential(Noting(), *convnet()), stream(), memory=17 * 1.5 * 4 * 30 * 7)
    # The first sample runs three times; then the first batch.
    assert most[3] == 4  # the third batch is too much; one more was read to see if it joins


def test_a_layer_called_again_has_moments_of_all_its_calls() -> None:
    model, x = Twice(), torch.randn(8, 4)
    seen = look(model, x)
    with torch.no_grad():
        y = model.a(x)
        inputs, outputs = torch.cat([x, y]), torch.cat([y, model.a(y)])
    evidence = seen.evidence["a"]
    moments = evidence.joint
    assert moments is not None
    assert moments.count == 16
    torch.testing.assert_close(moments.x_mean[0], inputs.mean(0))
    torch.testing.assert_close(moments.y_mean[0], outputs.mean(0))
    torch.testing.assert_close(moments.H[0], inputs.T.cov(correction=0))
    assert evidence.positions == 16
    assert evidence.sampled == {}


@pytest.mark.parametrize(
    ("data", "what"),
    [
        ([], "no data"),
        (iter([]), "no data"),
        (X[:0], "no data"),
        ([X[:0], X[:0]], "no data"),
        (X[:1], "one sample"),
        ([X[:1], X[:0]], "one sample"),
        (torch.randn(4, 2, 6, 5), r"fails on inputs of shape \(1, 2, 6, 5\)"),
        ([X[:8], torch.randn(4, 3, 9, 9)], r"shape \(4, 3, 9, 9\)"),
        ([{"input": torch.randn(4, 2)}], r"shape \{'input': \(1, 2\)\}"),
        ([{"wrong": X}], "wrong"),
        ([torch.randint(3, (4, 3, 6, 5))], "fails on inputs"),
    ],
)
def test_bad_data(data: Any, what: str) -> None:
    with pytest.raises(FinepruningError, match=what) as error:
        look(convnet(), data)
    assert str(error.value).startswith("batches: ")
    assert ";" in str(error.value)
    assert "\n" not in str(error.value)


class Broken(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x / 0


def test_activations_that_are_not_finite() -> None:
    model = nn.Sequential(nn.Linear(4, 4), Broken(), nn.Linear(4, 2))
    with pytest.raises(FinepruningError, match="layer '2': its outputs hold NaN") as error:
        look(model, torch.randn(8, 4))
    assert "\n" not in str(error.value)


def test_an_empty_call_is_no_call() -> None:
    class Experts(nn.Module):
        """Only samples with a large first entry reach the expert."""

        def __init__(self) -> None:
            super().__init__()
            self.a, self.expert = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            chosen = x[:, 0] > 100
            return self.a(x).index_put((chosen,), self.expert(x[chosen]))

    seen = look(Experts(), torch.randn(8, 4))
    assert "expert" not in seen.evidence
    assert "a" in seen.evidence


def test_norms_are_watched_in_all_samples() -> None:
    """Those that do not fit into the calibration set, too."""
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(120, 5))
    model[1].running_mean += 1
    seen = look(model.eval(), memory=17 * 1.5 * 4 * 30 * 7)
    assert seen.calibration_samples < 40
    moments = seen.norms["1"]
    assert (moments.count, moments.samples) == (40 * 30, 40)
    with torch.no_grad():
        torch.testing.assert_close(moments.mean.float(), model[0](X).mean((0, 2, 3)))


def test_data_made_in_inference_mode() -> None:
    """Its tensors do not tell whether they are written to."""
    with torch.inference_mode():
        data = X.clone()
    a, b = look(convnet(), data.split(8)), look(convnet(), X.split(8))
    assert torch.equal(a.logits, b.logits)
    for name, evidence in a.evidence.items():
        assert torch.equal(evidence.inputs.total, b.evidence[name].inputs.total)


def test_statistics_are_precise_whatever_the_model_does_around_its_layers() -> None:
    """Of a layer that is called again too, whose inputs and outputs are multiplied at once."""

    class Low(Twice):
        def forward(self, x: Tensor) -> Tensor:
            with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
                return super().forward(x)

    model, x = Low(), torch.randn(40, 4)
    seen = look(model, x)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        y = model.a(x)
    joint = seen.evidence["a"].joint
    assert joint is not None
    inputs = torch.cat([x, y.float()])
    torch.testing.assert_close(joint.H[0], inputs.T.cov(correction=0), atol=1e-6, rtol=1e-5)
    assert not joint.H.is_inference()
