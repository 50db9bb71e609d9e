"""The few operations on arrays: the same in NumPy and PyTorch."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import finepruning
from finepruning.core.arrays import (
    LowRank,
    cat,
    clip_min,
    double,
    gram,
    gram_macs,
    like,
    top,
    written_out,
)
from problems import GROUPS, INPUTS, OUTPUTS, Unchanged, W, X, in_torch

CORE = Path(finepruning.__file__).parent / "core"


def test_dtypes() -> None:
    half = W.astype(np.float32)
    assert double(half).dtype == np.float64
    assert double(in_torch(half)).dtype == torch.float64
    assert like(W, half).dtype == np.float32
    assert like(in_torch(W), in_torch(half)).dtype == torch.float32


def test_parts_behind_each_other() -> None:
    wanted = np.concatenate([X, X * 2], 1)
    np.testing.assert_array_equal(cat([X, X * 2]), wanted)
    np.testing.assert_array_equal(cat([in_torch(X), in_torch(X * 2)]), wanted)


def test_clip_min() -> None:
    np.testing.assert_array_equal(clip_min(W, 0.0), np.maximum(W, 0))
    np.testing.assert_array_equal(clip_min(in_torch(W), 0.0), np.maximum(W, 0))


@given(st.integers(1, 7), st.booleans())
def test_gram_by_blocks(block: int, started: bool) -> None:
    total = X.mT @ X if started else 0
    wanted = X.mT @ X * (1 + started)
    with Unchanged(X):
        np.testing.assert_allclose(gram(X, total * 1, block=block), wanted)
        np.testing.assert_allclose(gram(in_torch(X), in_torch(total * 1), block=block), wanted)


def test_gram_of_many_columns() -> None:
    """More than a block, with what is left over, and part by part."""
    wide = np.random.default_rng(1).normal(size=(1, 6, 1100))
    for one, two in ((wide[:, :2], wide[:, 2:]), map(in_torch, (wide[:, :2], wide[:, 2:]))):
        np.testing.assert_allclose(gram(two, gram(one)), wide.mT @ wide, atol=1e-12)


@given(st.integers(1, 40), st.integers(1, 40))
def test_gram_macs_are_those_of_the_upper_blocks(D: int, block: int) -> None:
    sizes = [min(block, D - i) for i in range(0, D, block)]
    upper = sum(a * b for i, a in enumerate(sizes) for b in sizes[i:])
    assert gram_macs(D, block) == upper


@given(
    st.lists(st.integers(-3, 3), min_size=1, max_size=40).flatmap(
        lambda s: st.tuples(st.just(s), st.integers(-1, len(s) + 1))
    )
)
def test_top_keeps_exactly_and_the_first_of_equal_ones(drawn: tuple[list[int], int]) -> None:
    values, count = drawn
    order = sorted(range(len(values)), key=lambda i: -values[i])[: max(count, 0)]
    wanted = np.isin(np.arange(len(values)), order)
    scores = np.array(values, dtype=np.float64)
    with Unchanged(scores):
        np.testing.assert_array_equal(top(scores, count), wanted)
        np.testing.assert_array_equal(top(torch.from_numpy(scores), count), wanted)
        np.testing.assert_array_equal(top(scores[None, :, None], count)[0, :, 0], wanted)


def test_top_sees_memory_order_through_a_view() -> None:
    scores = torch.ones(3, 4).T
    assert top(scores, 3).flatten().tolist() == [True] * 3 + [False] * 9
    assert top(np.ones((3, 4)).T, 3).flatten().tolist() == [True] * 3 + [False] * 9


@pytest.mark.parametrize("to", [np.asarray, in_torch])
def test_few_samples_stand_for_their_gram_matrix(to: Any) -> None:
    F, V = to(X[:, :3]), to(W)
    low, H = LowRank(F), X[:, :3].mT @ X[:, :3]
    np.testing.assert_allclose(low.dense(), H)
    np.testing.assert_allclose(written_out(low), H)
    np.testing.assert_allclose(V @ low, W @ H, atol=1e-12)
    np.testing.assert_allclose(low.diagonal(0, 1, 2), H.diagonal(0, 1, 2))
    assert tuple((V @ low).shape) == (GROUPS, OUTPUTS, INPUTS)
    assert written_out(H) is H


@pytest.mark.parametrize("to", [np.asarray, in_torch])
def test_a_rest_on_the_diagonal(to: Any) -> None:
    rest = np.random.default_rng(0).random((GROUPS, INPUTS))
    low = LowRank(to(X[:, :3]), to(rest))
    H = X[:, :3].mT @ X[:, :3] + np.eye(INPUTS) * rest[:, None, :]
    np.testing.assert_allclose(low.dense(), H)
    np.testing.assert_allclose(to(W) @ low, W @ H, atol=1e-12)
    np.testing.assert_allclose(low.diagonal(), H.diagonal(0, 1, 2))


@pytest.mark.parametrize("to", [np.asarray, in_torch])
@pytest.mark.parametrize("rows", [3, 5, 9])
@pytest.mark.parametrize("rank", [2, 4, 6, 8])
def test_a_compact_covariance_keeps_what_varies_most(to: Any, rows: int, rank: int) -> None:
    random = np.random.default_rng(0)
    F, rest = random.normal(size=(GROUPS, rows, INPUTS)), random.random((GROUPS, INPUTS))
    full = LowRank(to(F), to(rest))
    with Unchanged(F, rest):
        small = full.compacted(rank)
    assert small.F.shape[1] <= max(min(rank, INPUTS), 1)
    np.testing.assert_allclose(small.diagonal(), full.diagonal(), atol=1e-10)
    # What is left over of F is no more than it must be.
    off = np.asarray(full.F.mT @ full.F) - np.asarray(small.F.mT @ small.F)
    values = np.linalg.eigvalsh(F.mT @ F)
    np.testing.assert_allclose(
        np.linalg.norm(off, axis=(1, 2)),
        np.linalg.norm(values[:, : max(INPUTS - rank, 0)], axis=1),
        atol=1e-9,
    )


# --- No network and no PyTorch

BLOCKED = """
import importlib, sys

class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "torch":
            raise ImportError("there is no PyTorch here")

sys.meta_path.insert(0, NoTorch())
for name in {modules}:
    importlib.import_module("finepruning.core" + name)

import numpy as np
from finepruning.core.evidence import Evidence, Sampled
from finepruning.core.moments import Marginals, Moments
from finepruning.core.fit import FitOptions, fit
from finepruning.core.neighbours import agreed
from finepruning.core.plan import plan
from finepruning.core.readout import read_out

rng = np.random.default_rng(0)
W, X = rng.normal(size=(2, 4, 9)), rng.normal(size=(2, 40, 9))
Y = X @ W.mT
moments = Marginals.of(X), Marginals.of(Y)
for n in 3, 40:
    few = Sampled((n, 1), np.arange(n), np.zeros(n), Y[:, :n], 1.0, lambda n=n: X[:, :n])
    other = Sampled((n, 1), np.arange(n), np.zeros(n), Y[:, :n], 0.5, lambda n=n: X[:, :n])
    seen = Evidence(*moments, 40, {{0: few}}).merge(Evidence(*moments, 40, {{1: other}}))
    for method in "compensate", "rescale", "gains":
        assert np.isfinite(fit(W, seen, 30, FitOptions(method=method)).weights).all()
joint = Evidence(*moments, joint=Moments.few([(X[:, :2], Y[:, :2]), (X[:, 2:4], Y[:, 2:4])]))
assert np.isfinite(fit(W, joint, 30).weights).all()
assert plan({{"a": W, "b": W}}, {{"a": seen, "b": seen}}, {{}}, 50).keys() == {{"a", "b"}}
logits = 5 * np.eye(5)[np.arange(60) % 2]
found = read_out(logits)
change, agreement = agreed(logits + found.shift, logits[:, :3] + rng.random((60, 3)))
print(found.classes, agreement.neighbours > 0, "torch" in sys.modules)
loaded = {{m for m in sys.modules if m.startswith("finepruning.")}}
print(*sorted(m for m in loaded if not m.startswith("finepruning.core")))
"""


def test_it_runs_where_there_is_no_pytorch() -> None:
    names = ["", *(f".{path.stem}" for path in CORE.glob("[!_]*.py"))]
    code = BLOCKED.format(modules=names)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    said, others = done.stdout.splitlines()
    assert said == "2 True False"
    assert others == "finepruning._version"


@pytest.mark.parametrize("path", sorted(CORE.glob("*.py")), ids=lambda path: path.stem)
def test_it_imports_numpy_and_itself_alone(path: Path) -> None:
    tree = ast.parse(path.read_text())
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level in (0, 1), "from outside the core"
            imported |= set() if node.level else {str(node.module).split(".")[0]}
    others = imported - sys.stdlib_module_names - {"numpy"}
    # Where there are tensors, PyTorch has been imported by whoever made them.
    assert others == ({"torch"} if path.stem == "arrays" else set())
    at_once = [n for n in tree.body if isinstance(n, ast.Import) and n.names[0].name == "torch"]
    assert not at_once
    (function,) = (
        [f.name for f in tree.body if isinstance(f, ast.FunctionDef) and "import torch" in
         ast.unparse(f)] or [None]
    )  # fmt: skip
    assert function == ("_torch" if others else None)
