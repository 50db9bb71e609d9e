"""Which samples differ, and what a user is told of them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import finepruning
from finepruning.data.batches import Batch
from finepruning.steps.samples import Distinct, WarnOptions


def passed(x: Tensor, sizes: int) -> tuple[list[list[float]], Distinct]:
    distinct = Distinct()
    batches = distinct.once(Batch(part, len(part)) for part in x.split(sizes))
    rows = [row for batch in batches for row in batch.inputs.tolist()]  # type: ignore[union-attr]
    return rows, distinct


@given(st.lists(st.integers(0, 5), min_size=1, max_size=40), st.integers(1, 9))
def test_each_sample_passes_once_in_its_order(numbers: list[int], size: int) -> None:
    x = torch.tensor(numbers).float()[:, None]
    rows, distinct = passed(x, size)
    once = list(dict.fromkeys(numbers))
    # Of samples that are all the same one copy passes as well: they are two at least.
    wanted = once * 2 if len(once) == 1 and len(numbers) > 1 else once
    assert rows == [[float(k)] for k in wanted]
    assert (distinct.given, distinct.different) == (len(numbers), len(once))


def test_keyword_inputs_and_what_cannot_be_cut() -> None:
    distinct = Distinct()
    a = torch.arange(4).float()[:, None]
    plain = Batch({"a": torch.cat([a, a]), "b": torch.cat([a, a]) + 1}, 8)
    (batch,) = distinct.once([plain])
    assert batch.size == 4
    assert distinct.different == 4
    odd = Batch({"a": torch.cat([a, a]), "flag": 3}, 8)
    (batch,) = Distinct().once([odd])
    assert batch is odd


def test_what_is_said() -> None:
    def lines(given_: int, different: int) -> tuple[str, ...]:
        return Distinct(given_, different).warnings(WarnOptions())

    assert lines(64, 64) == ()
    assert "64 samples are the same" in lines(64, 1)[0]
    assert "9980 of 10000 samples are copies" in lines(10000, 20)[0]
    assert "2 samples are few" in lines(2, 2)[0]
    assert len(lines(100, 5)) == 2


X = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (X[:2], "2 samples are few"),
        (torch.zeros(32, 8), "all 32 samples are the same"),
        (X[:20].repeat(500, 1), "9980 of 10000 samples are copies"),
    ],
)
def test_nobody_is_harmed_by_too_little_data(data: Tensor, said: str) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4))
    result = finepruning.personalize(net, data, task="classes", progress=False)
    assert any(said in line for line in result.report.warnings)
    assert said in str(result.report)
    for name, value in result.model.state_dict().items():
        assert torch.equal(value, net.state_dict()[name])


def test_copies_change_nothing() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4))
    config = finepruning.Config(check=False, task="classes")
    one, two = (
        finepruning.personalize(net, x, config=config, progress=False).model.state_dict()
        for x in (X, torch.cat([X, X]))
    )
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, atol=1e-5, rtol=1e-5)
