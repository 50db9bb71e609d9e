"""What is kept of the samples, as a file: the same comes back, and nothing that is damaged."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from changing import Small, drawn
from finepruning import Config, FinepruningError, Result, load, personalize
from finepruning.artifact.layout import STATISTICS
from finepruning.artifact.statistics import read_statistics, to_tensors
from saved import reseal


@pytest.fixture(scope="module")
def me() -> Result:
    config = Config(sparsity=0.5, task="classes", check=False)
    return personalize(Small(), drawn([0, 1], 64)[0], config=config, progress=False)


@pytest.fixture
def folder(me: Result, tmp_path: Path) -> Path:
    me.save(tmp_path / "me")
    return tmp_path / "me"


def test_the_same_comes_back(me: Result, folder: Path) -> None:
    assert me.statistics is not None
    wanted, found = to_tensors(me.statistics), to_tensors(read_statistics(folder))
    assert wanted.keys() == found.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=2e-3, atol=1e-6)


def test_no_sample_is_in_it(me: Result) -> None:
    """More samples are no more bytes, but for their answers."""
    assert me.statistics is not None
    config = Config(sparsity=0.5, task="classes", check=False)
    more = personalize(Small(), drawn([0, 1], 256)[0], config=config, progress=False).statistics
    assert more is not None
    answers = 192 * 6 * 4
    assert more.nbytes <= me.statistics.nbytes * 1.3 + answers


@pytest.mark.skipif(os.name == "nt", reason="Windows has other rights")
def test_it_is_its_owners_alone(folder: Path) -> None:
    assert stat.S_IMODE((folder / STATISTICS).stat().st_mode) & 0o077 == 0


def test_all_else_works_without_it(me: Result, folder: Path) -> None:
    (folder / STATISTICS).unlink()
    assert load(folder, Small())[0].weight.equal(me.model[0].weight)
    with pytest.raises(FinepruningError, match=r"nothing was kept for updates .*personalise anew"):
        read_statistics(folder)


def test_damage_is_named(folder: Path) -> None:
    file = folder / STATISTICS
    tensors = load_file(file)
    lost = {k: v for k, v in tensors.items() if k != "samples"}
    save_file(lost, file)
    with pytest.raises(FinepruningError, match=r"damaged artifact \(statistics\.safetensors is"):
        read_statistics(folder)
    reseal(folder)
    with pytest.raises(FinepruningError, match=r"statistics\.safetensors: damaged"):
        read_statistics(folder)
    file.write_bytes(b"no tensors")
    reseal(folder)
    with pytest.raises(FinepruningError, match="damaged"):
        read_statistics(folder)
    save_file({k: v for k, v in tensors.items() if k != "inputs/0/F"}, file)
    reseal(folder)
    with pytest.raises(FinepruningError, match=r"statistics\.safetensors: damaged"):
        read_statistics(folder)
