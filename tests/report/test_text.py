"""The text of a report, from the plain dict that an artifact keeps."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from finepruning.report.text import format_report, of_all, shortened, summary

REPORT: dict[str, Any] = {
    "sparsity": 0.7, "weights": 1000, "samples": 20, "calibration_samples": 16,
    "config": {"effort": "best", "seed": 3},
    "readout": {"applied": True, "reason": "", "outputs": 10, "classes": 3, "trust": 0.9,
                "closed": 4},
    "halves": 0.97,
    "check": {"held": 3, "passed": True, "reason": "", "gain": 0.0312, "error": 0.02},
    "warnings": ["few"],
    "norms": {"applied": True, "moved": 0.25, "reason": ""},
    "neighbours": {"applied": True, "reason": "", "asked": 5, "same": 0.8, "weight": 0.5},
    "seconds": {"total": 2.0, "observe": 0.5, "prune": 1.0, "solve": 0.25},
    "dense_passes": 4.0, "forward_passes": 3.5, "macs": {"dense": 5000, "personal": 1500},
    "peak_memory": 2_500_000,
    "layers": [
        {"name": "conv", "kind": "Conv2d", "weights": 900, "zeros": 630, "error": 0.1234},
        {"name": "head", "kind": "Linear", "weights": 100, "zeros": 70, "error": None},
    ],
    "left_alone": {"up": "a transposed convolution"},
}  # fmt: skip


def line(report: dict[str, Any], start: str) -> str:
    return next(row for row in format_report(report).splitlines() if row.startswith(start))


@pytest.mark.parametrize(
    ("start", "text"),
    [
        ("sparsity", "70.00% of 1,000 weights that can be pruned are zero"),
        ("samples", "20 unlabelled (16 to fit the layers)"),
        ("effort", "best, seed 3"),
        ("read-out", "3 of 10 classes in use (trust 0.90), the others made less likely; 4 never"),
        ("halves", "two halves of the samples agree on 97% of the answers"),
        ("check", "3 samples held back: accuracy expected to change by +3.1%"),
        ("warning:", "few"),
        ("batch norms", "follow this person (means have moved by 0.250 variances)"),
        ("neighbours", "5 a sample asked (80% answer alike), weight 0.50"),
        ("time", "2.0 s = 4.0 dense forward passes (observe 0.5, prune 1.0, of it solving 0.2)"),
        ("computation", "3.5 forward-pass equivalents; one epoch of fine-tuning takes 3"),
        ("MACs", "5,000 a sample dense, 1,500 with the zeros left out"),
        ("memory", "peak 2 MB above the start"),
        ("conv", "70.0%   0.123"),
        ("head", "70.0%       -"),
        ("  up", "a transposed convolution"),
    ],
)
def test_each_line(start: str, text: str) -> None:
    assert text in line(REPORT, start)


def test_what_was_not_done_says_why() -> None:
    report = copy.deepcopy(REPORT)
    for name in ("readout", "norms", "neighbours"):
        report[name] |= {"applied": False, "reason": "too few samples"}
    report["peak_memory"] = None
    assert line(report, "read-out").endswith("left as it was: too few samples")
    assert line(report, "batch norms").endswith("left as they were: too few samples")
    assert line(report, "neighbours").endswith("left out: too few samples (80% answer alike)")
    assert line(report, "memory").endswith("not measured")
    report["readout"] |= {"applied": True, "trust": 0.001}
    assert line(report, "read-out").endswith("changes nothing: too few samples")
    report["readout"]["reason"] = ""
    assert line(report, "read-out").endswith("no sign that classes are missing")


def test_reports_of_earlier_versions() -> None:
    report = {key: value for key, value in REPORT.items() if key not in ("norms", "neighbours")}
    assert line(report, "batch norms").endswith("an earlier version")
    assert line(report, "neighbours").endswith("an earlier version")


def test_a_summary_fits_a_terminal() -> None:
    report = copy.deepcopy(REPORT)
    classes = [{"name": f"a class called {k}", "samples": k} for k in range(50)]
    report["classes"] = {"in_use": classes, "changed": []}
    report["readout"]["reason"] = report["norms"]["reason"] = "for a long reason " * 20
    report["check"] |= {"passed": False, "reason": "for a reason that is long " * 20}
    report["choice"] = {"sparsity": 0.4, "tolerance": 0.05}
    report["warnings"] = ["something is not as it should be " * 5] * 5
    report["left_alone"] = {f"layer.{i}": "a reason" for i in range(99)}
    for some in (report, REPORT):
        lines = summary(some).splitlines()
        assert len(lines) <= 20
        assert max(map(len, lines)) <= 80
    text = summary(report)
    assert "at most 5 of 100 answers" in " ".join(text.split())
    assert "THE DENSE WEIGHTS ARE RETURNED" in text
    assert "a class called 1 1" in " ".join(text.split())
    assert "99 layers, such as layer.0" in text
    assert "conv" not in text  # the layers are told on request


def test_a_summary_says_that_less_would_not_do() -> None:
    report = REPORT | {"choice": {"sparsity": None, "tolerance": 0.1}, "sparsity": 0.0}
    assert "less than 10% would be sure" in summary(report)


def test_the_share_of_all_weights_is_told_where_it_is_another() -> None:
    report = {"weights": 1000, "zeros": 700}
    assert of_all(report) == ""  # an earlier version's
    assert of_all(report | {"all_weights": 1010}) == ""
    assert of_all(report | {"all_weights": 2000}) == ", 35.0% of all 2,000"


def test_a_long_name_keeps_to_its_column() -> None:
    name = "model.vision_tower.encoder.layers.11.self_attention.query_projection"
    short = shortened(name, 35)
    assert len(short) == 35
    assert short.endswith("query_projection")
    assert shortened("head", 35) == "head"
