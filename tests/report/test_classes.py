"""The person's classes by name, beside a plain count."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from finepruning.core.readout import read_out
from finepruning.report.classes import MOST, classes_in_use


def test_as_counted() -> None:
    rng = np.random.default_rng(0)
    logits = 2 * rng.normal(size=(300, 6))
    shift = np.array([0.0, 0, 0, -2, -2, -2])
    answer = replace(read_out(logits), shift=shift, temperature=0.7)
    names = [*"abcdef"]
    found = classes_in_use(logits, answer, names)
    before, after = logits.argmax(1), (logits + shift).argmax(1)
    counts = Counter(names[k] for k in after)
    assert {one["name"]: one["samples"] for one in found["in_use"]} == counts
    assert [one["samples"] for one in found["in_use"]] == sorted(counts.values(), reverse=True)
    moved = Counter((names[a], names[b]) for a, b in zip(before, after, strict=True) if a != b)
    assert {(one["from"], one["to"]): one["samples"] for one in found["changed"]} == moved
    p = np.exp(logits + shift)
    sure = (p / p.sum(1, keepdims=True)).max(1)
    for one in found["in_use"]:
        assert one["sure"] == pytest.approx(sure[after == one["class"]].mean())


def test_without_names_numbers_and_not_too_many() -> None:
    logits = 5 * np.eye(200)
    found = classes_in_use(logits, replace(read_out(logits), shift=np.zeros(200)), None)
    assert len(found["in_use"]) == MOST
    assert found["in_use"][0]["name"] == "0"
    assert found["changed"] == []
