"""Does the package do what the reference does? Cases, and the comparison of everything visible."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import reference
from finepruning import Config, Report, Result, personalize
from unchecked import SPARSITY

SAMPLES, BATCH, CLASSES = 24, 8, 5

ALL = 100_000
"""Positions a layer: so many that none is left out, as in the reference."""


PARTS = {
    "readout": ("readout", "enabled"),
    "planned": ("plan", "tempering"),
    "ridge": ("fit", "ridge"),
    "norms": ("norms", "share"),
    "neighbours": ("neighbours", "weight"),
    "classes": ("task", "classes"),
}
"""Where the package has the options of :class:`reference.Settings` that are not at its top."""


def run(model: nn.Module, data: Any, options: dict[str, Any]) -> Result:
    """What the package makes of ``model``, with nothing sampled: neither the outputs' positions nor
    the inputs', whose energies the plan goes by.

    ``options`` are those of :class:`reference.Settings`; what is not named has the default in the
    package, and must be the same in the reference.
    """
    nested: dict[str, Any] = {
        "sparsity": SPARSITY,
        "observe": {"positions": ALL, "inputs_every": 1},
        "paper": {"positions": ALL},
        # What is held back from the fit is looked at in tests/steps/test_check.py.
        "check": {"enabled": False},
    }
    if options.get("readout", True):
        nested["task"] = {"kind": "classes"}
    if options.get("effort") == "paper":  # which has no read-out unless it is asked for
        options = {name: value for name, value in options.items() if name != "readout"}
    for name, value in options.items():
        part, inner = PARTS.get(name, (name, ""))
        if inner:
            nested.setdefault(part, {})[inner] = value
        else:
            nested[part] = value
    return personalize(model, data, config=Config(**nested), progress=False)


def settled(model: nn.Module) -> nn.Module:
    """In float64, with normalisations that do something, in training mode as users may leave it."""
    for m in model.modules():
        if isinstance(m, nn.modules.batchnorm._BatchNorm):
            m.running_mean.normal_(0, 0.3)
            m.running_var.uniform_(0.5, 2)
            nn.init.normal_(m.weight, 1, 0.2)
            nn.init.normal_(m.bias, 0, 0.2)
    return model.double()


class Case:
    """A network, its inputs, and what the reference must be told.

    The first ``samples`` of ``x``, ``batch`` at a time, are the person's; any others are new to
    both.
    """

    def __init__(
        self,
        model: nn.Module,
        x: Any,
        *,
        head: str | None = "head",
        left_alone: tuple[str, ...] = (),
        never: tuple[str, ...] = (),
        samples: int = SAMPLES,
        batch: int = BATCH,
    ) -> None:
        self.model, self.x, self.head = settled(model), x, head
        self.left_alone, self.never = left_alone, never
        self.samples, self.batch = samples, batch

    def batches(self, *, new: bool = False) -> list[Any]:
        x = self.x if isinstance(self.x, dict) else {"": self.x}
        split = [{k: v[rows] for k, v in x.items()} for rows in self._rows(new).split(self.batch)]
        return split if isinstance(self.x, dict) else [item[""] for item in split]

    def arrays(self, *, new: bool = False) -> Any:
        rows = self._rows(new)
        if isinstance(self.x, dict):
            return {k: v[rows].numpy() for k, v in self.x.items()}
        return self.x[rows].numpy()

    def _rows(self, new: bool) -> Tensor:
        size = len(next(iter(self.x.values())) if isinstance(self.x, dict) else self.x)
        return torch.arange(size)[self.samples :] if new else torch.arange(self.samples)

    def wanted(self, options: dict[str, Any]) -> reference.Outcome:
        """What the reference makes of it."""
        return reference.personalize(
            self.model.eval(), self.arrays(), reference.Settings(**options),
            head=self.head, left_alone=self.left_alone,
        )  # fmt: skip


def conform(
    case: Case, data: Any, options: dict[str, Any], tolerance: float = 1e-8
) -> tuple[Result, reference.Outcome]:
    """Personalise with both and compare everything that can be seen from outside."""
    result, wanted = run(case.model, data, options), case.wanted(options)
    report, net = result.report, wanted.network
    assert list(report.left_alone) == [*case.left_alone, *case.never]
    assert all(report.left_alone.values())  # each with its reason

    mine = reference.Network(result.model, case.left_alone + case.never)
    assert [layer.name for layer in report.layers] == list(net.weights) == list(mine.weights)
    for layer in report.layers:
        got, expected = mine.weights[layer.name], net.weights[layer.name]
        np.testing.assert_array_equal(got.W != 0, expected.W != 0, err_msg=layer.name)
        np.testing.assert_allclose(got.W, expected.W, atol=tolerance, err_msg=layer.name)
        assert layer.zeros == int((got.W == 0).sum())
        assert layer.weights == got.W.size
        if layer.name in wanted.errors:
            assert layer.error == pytest.approx(wanted.errors[layer.name], abs=tolerance)
        else:
            assert layer.error is None
    for new in (False, True):
        out = net.forward(case.arrays(new=new)) if len(case.batches(new=new)[0]) else None
        with torch.inference_mode():
            for i, batch in enumerate(case.batches(new=new) if out is not None else []):
                got = result.model(**batch) if isinstance(batch, dict) else result.model(batch)
                part = out[i * case.batch : (i + 1) * case.batch]
                np.testing.assert_allclose(got.double().numpy(), part, atol=tolerance, rtol=1e-6)

    assert report.weights == mine.total
    assert report.zeros == mine.zeros
    assert report.sparsity == mine.zeros / mine.total >= report.config["sparsity"] - 1e-9
    compare_reports(report, wanted, tolerance)
    return result, wanted


def compare_reports(report: Report, wanted: reference.Outcome, tolerance: float) -> None:
    """What was found of the person, in numbers."""
    answer, agreement = wanted.answer, wanted.agreement
    assert report.readout["applied"] == (answer is not None)
    if answer is not None:
        assert report.readout["classes"] == answer.classes
        assert report.readout["trust"] == pytest.approx(answer.trust, abs=tolerance)
    assert report.norms["applied"] == wanted.followed
    assert report.norms["shown"] == wanted.shown
    assert report.norms["moved"] == pytest.approx(wanted.moved, abs=tolerance)
    assert report.neighbours["applied"] == (agreement is not None and agreement.weight > 0)
    if agreement is not None and agreement.weight > 0:
        assert report.neighbours["asked"] == agreement.asked
        assert report.neighbours["weight"] == pytest.approx(agreement.weight, abs=tolerance)
