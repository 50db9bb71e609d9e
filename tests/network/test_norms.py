"""Batch norms: which are followed, their moments, and how they are written."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from finepruning.network.norms import ChannelMoments, Norm, find_norms, norm_places
from passes import batch, engine_of


def test_folded_or_untrained_statistics_are_no_norms() -> None:
    untrained = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
    assert find_norms(untrained) == ()
    assert find_norms(nn.Sequential(nn.BatchNorm1d(3, affine=False), nn.LayerNorm(3))) == ()
    assert find_norms(nn.BatchNorm1d(3, track_running_stats=False)) == ()


def test_norms_that_compute_something_else_are_left_alone() -> None:
    class Other(nn.BatchNorm2d):
        def forward(self, x: Tensor, scale: float = 1.0) -> Tensor:
            return scale * super().forward(x)

    class BatchNormAct2d(nn.BatchNorm2d):  # timm's
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).relu()

    for norm, followed in ((Other(3), False), (BatchNormAct2d(3), True)):
        norm.running_mean.add_(1)  # type: ignore[union-attr]
        assert bool(find_norms(norm)) == followed
    one, two = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
    one.running_mean.add_(1)  # type: ignore[union-attr]
    two.weight = one.weight
    assert find_norms(nn.Sequential(one, two)) == ()
    one = nn.BatchNorm2d(3, affine=True)
    one.running_mean.add_(1)  # type: ignore[union-attr]
    one.bias = None
    assert find_norms(one) == ()


def moments(x: Tensor) -> ChannelMoments:
    return ChannelMoments.of(x)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.integers(1, 5), min_size=1, max_size=4),
    st.integers(1, 3), st.integers(1, 6), st.floats(-50, 50), st.randoms(),
)  # fmt: skip
def test_moments_merge_in_any_order(
    sizes: list[int], channels: int, positions: int, offset: float, random: object
) -> None:
    x = torch.randn(sum(sizes), channels, positions).double() + offset
    parts = [moments(part) for part in x.split(sizes)]
    random.shuffle(parts)  # type: ignore[attr-defined]
    merged = parts[0]
    for part in parts[1:]:
        merged = part.merge(merged)
    whole = moments(x)
    for got, wanted in (
        (merged.mean, x.mean((0, 2))),
        (merged.variance, x.var((0, 2), correction=0)),
        (merged.per_sample, (x.mean(2) ** 2).sum(0)),
        (merged.total, whole.total),
    ):
        torch.testing.assert_close(got, wanted, atol=1e-8, rtol=1e-8)
    assert (merged.count, merged.samples) == (len(x) * positions, len(x))


def test_older_moments_can_weigh_less() -> None:
    x, y = torch.randn(4, 2, 3).double(), torch.randn(4, 2, 3).double()
    merged = moments(x).decayed(0.5).merge(moments(y))
    torch.testing.assert_close(merged.mean, (0.5 * x.mean((0, 2)) + y.mean((0, 2))) / 1.5)
    assert (merged.count, merged.samples) == (1.5 * 12, 6)


def test_how_far_the_means_have_moved() -> None:
    norm = Norm("n", nn.BatchNorm2d(2, eps=0.0))
    x = torch.randn(400, 2, 5, 5).double() + torch.tensor([3.0, 0.0]).view(1, 2, 1, 1)
    assert abs(norm.moved(moments(x)) - 9 / 2) < 0.2
    assert norm.moved(moments(x - x.mean((0, 2, 3), keepdim=True))) <= 0


def test_what_is_followed_is_normalised_by_the_persons_statistics() -> None:
    module = nn.BatchNorm2d(3).double().eval().requires_grad_(False)
    module.weight.uniform_(0.5, 1.5)
    module.bias.normal_()
    module.running_mean.normal_()
    module.running_var.uniform_(0.5, 2)
    x = torch.randn(64, 3, 4, 4).double() * 2 + 1
    wanted = nn.functional.batch_norm(
        x, x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0), module.weight, module.bias
    )
    before = [module.running_mean.clone(), module.running_var.clone()]
    Norm("n", module).follow(moments(x), 1.0)
    torch.testing.assert_close(module(x), wanted)
    assert torch.equal(module.running_mean, before[0])
    assert torch.equal(module.running_var, before[1])


def test_norms_are_taps() -> None:
    """Visited in the order in which they are met, with what they are given."""
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.BatchNorm2d(4))
    model[1].running_mean += 1
    engine = engine_of(model)
    x, seen = torch.randn(2, 3, 4, 4), []

    def visit(norm: Norm, inputs: dict[int, Tensor]) -> None:
        seen.append((norm.name, [*inputs], inputs[1].clone()))

    engine.lock_step([batch(x), batch(x)], norm_places(find_norms(engine.model)), visit)
    assert [(name, batches) for name, batches, _ in seen] == [("1", [0, 1]), ("3", [0, 1])]
    assert torch.equal(seen[0][2], model[0](x))
