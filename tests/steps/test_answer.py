"""What the outputs are, as sources and users say, and which classes there can be."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from finepruning import Config, FinepruningError, personalize
from finepruning.core.readout import ReadoutOptions
from finepruning.steps.answer import TaskOptions, answers, halves_agree, names_of, numbers_of

X = torch.randn(64, 16, generator=torch.Generator().manual_seed(0))


def net(outputs: int = 4) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 64), nn.Tanh(), nn.Linear(64, outputs))


def outputs_of(model: nn.Module, **options: Any) -> Any:
    result = personalize(model, X, sparsity=0.3, progress=False, **options)
    return result.report, result.model


def test_a_regressors_outputs_are_as_without_a_read_out() -> None:
    """Four measures of one thing, far apart: whatever comes up, no mean moves."""
    model = net()
    with torch.no_grad():
        model[2].bias.copy_(torch.tensor([0.0, 5.0, 10.0, 40.0]))
    for options in ({}, {"task": "values"}, {"task": "labels"}, {"task": "tokens"}):
        report, personal = outputs_of(model, **options)
        assert not report.readout["applied"]
        assert not report.neighbours["applied"]
        plain = outputs_of(model, readout=False)[1]
        assert torch.equal(personal(X), plain(X))
        torch.testing.assert_close(personal(X).mean(0), model(X).mean(0), atol=0.1, rtol=0.02)
    assert report.task == "tokens"


def test_where_it_does_not_show_one_line_says_how_to_ask() -> None:
    report, _ = outputs_of(net())
    assert report.task == "unknown"
    assert 'say task="classes" (--task classes)' in report.readout["reason"]
    assert report.readout["reason"] in " ".join(str(report).split())


@pytest.mark.parametrize(
    ("problem", "labels", "task"),
    [
        ("single_label_classification", 4, "classes"), ("regression", 4, "values"),
        ("multi_label_classification", 4, "labels"), (None, 4, "classes"),
    ],
)  # fmt: skip
def test_what_a_hugging_face_model_says(problem: str | None, labels: int, task: str) -> None:
    class NetForImageClassification(nn.Sequential):
        config = SimpleNamespace(problem_type=problem, num_labels=labels)

    report, _ = outputs_of(NetForImageClassification(*net()))
    assert report.task == task
    assert report.readout["applied"] or task != "classes" or not report.check["passed"]


def test_what_stands_at_the_end_says_it() -> None:
    assert outputs_of(nn.Sequential(*net(), nn.Sigmoid()))[0].task == "labels"
    assert outputs_of(nn.Sequential(*net(), nn.Softmax(1)))[0].task == "classes"


def test_the_only_classes_by_number_and_by_name() -> None:
    names = ["ant", "bee", "cat", "dog"]
    config = Config(sparsity=0.3, check=False, task={"classes": ["bee", 3], "names": names})
    by_name = personalize(net(), X, config=config, progress=False)
    assert by_name.report.task == "classes"
    assert by_name.report.readout["closed"] == 2
    assert set(by_name.model(X).argmax(1).tolist()) <= {1, 3}
    assert bool(by_name.model.half()(X.half()).isfinite().all())
    asked = personalize(
        net(), X, sparsity=0.3, classes=["bee", 3], class_names=names, progress=False
    )
    assert asked.report.config["task"]["classes"] == ("bee", 3)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"classes": ["bee"]}, "'bee' is a name; give class_names="),
        ({"classes": ["fly"], "class_names": ["a", "b", "c", "d"]}, "0 outputs are named 'fly'"),
        ({"classes": ["a"], "class_names": ["a", "a", "c", "d"]}, "2 outputs are named 'a'"),
        ({"classes": [4]}, "classes: no 4; the outputs are 0 to 3"),
        ({"classes": []}, "classes: none is given"),
        ({"classes": "ab"}, "give a list"),
        ({"classes": [1.5]}, "1.5 is no"),
        ({"classes": [1], "class_names": ["a"]}, "1 names for 4 outputs"),
        ({"classes": [1], "task": "values"}, "there are none where task='values'"),
        ({"task": "classes", "class_prior": [0.5, 0.5]}, "2 numbers for 4 outputs"),
        ({"class_prior": [0.5, 0.0, 0.1, 0.4]}, "a frequency above 0"),
        ({"task": "class"}, "choose one of auto, classes"),
    ],
)
def test_one_line_says_what_is_wrong(options: dict[str, Any], said: str) -> None:
    with pytest.raises(FinepruningError) as error:
        personalize(net(), X, progress=False, **options)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_numbers_of_any_kind() -> None:
    assert numbers_of((np.int64(2).item(), 0, 0), None, 3).tolist() == [0, 2]
    assert TaskOptions(classes=np.array([1, 2])).classes == (1, 2)  # type: ignore[arg-type]


def test_halves_that_say_the_same_agree() -> None:
    rng = np.random.default_rng(0)
    clear = rng.normal(size=(100, 5))
    clear[np.arange(100), np.arange(100) // 2 % 2] += 9
    assert halves_agree(clear, TaskOptions(), ReadoutOptions()) == 1
    assert halves_agree(clear[:3], TaskOptions(), ReadoutOptions()) is None
    apart = clear.copy()
    apart[::2] = np.roll(clear[::2], 2, axis=1)  # one half is of other classes
    apart += 3 * rng.normal(size=apart.shape)
    agreed = halves_agree(apart, TaskOptions(), ReadoutOptions())
    assert agreed is not None
    assert agreed < 1
    assert answers(clear, TaskOptions(), ReadoutOptions()).classes == 2


def test_names_are_the_users_or_the_configurations() -> None:
    model = net()
    assert names_of(model, TaskOptions(), 4) is None
    assert names_of(model, TaskOptions(names=("a", "b", "c", "d")), 4) == ("a", "b", "c", "d")
    assert names_of(model, TaskOptions(names=("a", "b")), 4) is None  # they are not of all outputs
    model.config = SimpleNamespace(id2label={0: "cat", 1: "dog", 2: "owl", 3: "emu"})  # type: ignore[assignment]
    assert names_of(model, TaskOptions(), 4) == ("cat", "dog", "owl", "emu")
    assert names_of(model, TaskOptions(), 5) is None
    model.config.id2label = {k: f"LABEL_{k}" for k in range(4)}  # type: ignore[union-attr]
    assert names_of(model, TaskOptions(), 4) is None
