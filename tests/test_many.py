"""Many people at once: the same bits as one after the other, whoever dies meanwhile."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from finepruning import Bank, Config, FinepruningError, personalize_many
from finepruning._many import _state_of, _take
from saved import Net, X, same_bits
from unchecked import personalize

CHOSEN = Config(sparsity=0.6, check=False)


def test_one_after_the_other_or_at_once(tmp_path: Path) -> None:
    def samples(i: int) -> Callable[[], list[torch.Tensor]]:
        return lambda: [X + i]

    def dies(times: float) -> Callable[[], list[torch.Tensor]]:
        def opens() -> list[torch.Tensor]:
            seen = tmp_path / f"seen-{times}"
            seen.touch()
            if seen.stat().st_size < times:
                with seen.open("a") as file:
                    file.write("x")
                os.kill(os.getpid(), signal.SIGKILL)
            return [X + 1]

        return opens

    def broken() -> list[torch.Tensor]:
        raise KeyError("their samples")

    people = {
        "zero": samples(0), "one": dies(1), "none": list, "broken": broken,
        "always": dies(9), "two": samples(2),
    }  # fmt: skip
    bank, seen = Bank(tmp_path / "bank", Net()), []
    fleet = personalize_many(
        Net, people, bank, config=CHOSEN, workers=2, retries=1,
        progress=lambda name, why: seen.append((name, bool(why))),
    )  # fmt: skip
    assert {*fleet.done} == {"zero", "one", "two"} == {*bank}
    assert fleet.done["one"]["sparsity"] == pytest.approx(0.6, abs=0.02)
    assert {*fleet.failed} == {"none", "broken", "always"}
    assert "there is no data" in fleet.failed["none"]
    assert fleet.failed["broken"] == "KeyError: 'their samples'"
    assert "its worker died 2 times" in fleet.failed["always"]
    assert sorted(seen) == sorted((name, name in fleet.failed) for name in people)
    assert bank.verify() == {}
    for i, name in enumerate(("zero", "one", "two")):
        alone = personalize(Net(), [X + i], config=CHOSEN)
        assert same_bits(bank.load(name), alone.model)

    again = personalize_many(Net, {n: people[n] for n in bank}, bank, config=CHOSEN)
    assert again.there == (*bank,)
    assert not again.done
    with pytest.raises(FinepruningError, match=r"zero: is in .* already, by other choices"):
        personalize_many(Net, people, bank, config=Config(sparsity=0.5))
    with pytest.raises(FinepruningError, match=r"zero: is in .* already, from another base"):
        personalize_many(lambda: Net(bias=True), people, bank, config=CHOSEN)


def test_what_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bank = Bank(tmp_path / "bank")
    for wrong in ({"workers": 0}, {"retries": -1}):
        with pytest.raises(FinepruningError, match="give 1 and 0 or more"):
            personalize_many(Net, {"me": lambda: [X]}, bank, **wrong)
    with pytest.raises(FinepruningError, match="'a/b': no name for a person"):
        personalize_many(Net, {"a/b": lambda: [X]}, bank)
    assert personalize_many(Net, {}, bank).done == {}
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(FinepruningError, match=r"pip install 'finepruning\[fleet\]'"):
        personalize_many(Net, {"me": lambda: [X]}, bank)


def test_values_are_shared_and_buffers_are_copied() -> None:
    torch.manual_seed(0)
    given, other = (
        torch.nn.Sequential(torch.nn.Linear(300, 200), torch.nn.BatchNorm1d(200)) for _ in "ab"
    )
    state = _state_of(given)
    _take(other, state)
    assert all(
        torch.equal(a, b)
        for a, b in zip(given.state_dict().values(), other.state_dict().values(), strict=True)
    )
    assert other[0].weight.data_ptr() == state["0.weight"][0].ctypes.data
    assert other[1].running_mean.data_ptr() != state["1.running_mean"][0].ctypes.data


KILLED = """
import sys, time, torch
from finepruning import Bank, Config, personalize_many
sys.path.insert(0, sys.argv[1])
from saved import Net, X
def opens(i):
    def read():
        time.sleep(0.5 * (i > 0))
        return [X + i]
    return read
def main():
    people = {f"user-{i}": opens(i) for i in range(4)}
    fleet = personalize_many(
        Net, people, Bank(sys.argv[2]), config=Config(sparsity=0.6, check=False), workers=1,
        progress=lambda name, why: print(name, why, flush=True),
    )
    print(*fleet.there)
main()
"""


def test_the_driver_is_killed_and_the_same_call_goes_on(tmp_path: Path) -> None:
    here = Path(__file__).parent
    argv = [sys.executable, "-c", KILLED, str(here), str(tmp_path / "bank")]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, cwd=tmp_path) as first:
        assert first.stdout is not None
        assert first.stdout.readline().startswith("user-0")
        first.kill()
    bank = Bank(tmp_path / "bank", Net())
    second = subprocess.run(argv, stdout=subprocess.PIPE, text=True, cwd=tmp_path, check=True)
    assert "user-0" in second.stdout.splitlines()[-1].split()
    assert len(bank) == 4
    assert bank.verify() == {}
    for i in range(4):
        alone = personalize(Net(), [X + i], sparsity=0.6)
        assert same_bits(bank.load(f"user-{i}"), alone.model)
