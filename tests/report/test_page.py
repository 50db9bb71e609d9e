"""The page: one file that needs nothing else, and says what was done."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from finepruning import personalize
from finepruning.cli.main import main
from finepruning.report.page import page

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
NAMES = ("cat", "<script>alert(1)</script>", "owl & emu", "fox", "hen", "bee")


def made(**options: Any) -> Any:
    if "sparsity" not in options:
        options.setdefault("tolerance", 0.3)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 6))
    with torch.no_grad():
        model[2].weight *= 9
        model[2].bias[:2] += 4
    x = torch.randn(200, 8)
    return personalize(model, x, task="classes", class_names=NAMES, progress=False, **options)


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    return json.loads(json.dumps(made().report.to_dict()))


def test_nothing_is_asked_for_from_elsewhere(report: dict[str, Any]) -> None:
    text = page(report)
    assert len(text.encode()) < 1_000_000
    assert "default-src 'none'" in text
    assert "<script" not in text
    assert not re.search(r"""(src|href)=["'](?!#|data:)""", re.sub(r'xlink:href="#', "", text))
    assert not re.search(r"url\((?!#)|@import", text)


def test_names_cannot_become_part_of_the_page(report: dict[str, Any]) -> None:
    text = page(report)
    assert any("script" in one["name"] for one in report["classes"]["in_use"])
    assert "&lt;script&gt;" in text


def test_it_says_what_was_decided(report: dict[str, Any]) -> None:
    text = page(report)
    for heading in ("decided", "Which sparsity", "Your classes", "Layer by layer", "cost", "next"):
        assert heading in text
    for one in report["classes"]["in_use"]:
        assert f'<td class="n">{one["samples"]}</td>' in text
    assert text.count("<svg") == 2
    assert "currentColor" in text
    assert page(report) == text  # the same report, the same page


@pytest.mark.parametrize(
    "options", [{"sparsity": 0.5}, {"tolerance": 0.0}, {"readout": False, "sparsity": 0.5}]
)
def test_whatever_was_done_there_is_a_page(options: dict[str, Any]) -> None:
    text = page(made(**options).report.to_dict())
    assert text.endswith(("</html>\n", "</html>"))
    stays = options.get("tolerance") == 0
    assert ("stays as it was" in text) >= stays


def test_of_a_report_of_an_earlier_version(report: dict[str, Any]) -> None:
    old = {
        k: v
        for k, v in report.items()
        if k not in ("choice", "check", "halves", "neighbours", "classes")
    }
    old["layers"] = [{k: v for k, v in la.items() if k != "macs"} for la in old["layers"]]
    assert "Your personal network" in page(old)


def test_samples_only_where_they_are_given(report: dict[str, Any]) -> None:
    one = {"media": '<img src="data:image/png;base64,AA==">', "before": "cat", "after": "<b>"}
    text = page(report, [one])
    assert one["media"] in text
    assert "&lt;b&gt;" in text
    assert "<img" not in page(report)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made().save(tmp_path / "me")
    assert main(["report", str(tmp_path / "me")]) == 0
    assert (tmp_path / "me" / "report.html").read_text().startswith("<!doctype html>")
    assert "in a browser" in capsys.readouterr().err
    assert main(["report", str(tmp_path / "me"), "--out", str(tmp_path / "no" / "page.html")]) == 1
    assert "--out" in capsys.readouterr().err
    assert main(["report", str(tmp_path)]) == 1


@pytest.mark.skipif(BROWSER is None, reason="there is no chromium")
@pytest.mark.parametrize("width", [390, 1280])
def test_in_a_browser(report: dict[str, Any], tmp_path: Path, width: int) -> None:
    assert BROWSER is not None
    file, shot = tmp_path / "page.html", tmp_path / "page.png"
    file.write_text(page(report))
    common = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--window-size={width},2000"]
    common += [f"--user-data-dir={tmp_path / 'profile'}", "--disable-background-networking"]
    shown = subprocess.run(
        [*common, "--dump-dom", file.as_uri()], capture_output=True, text=True, timeout=120
    )
    assert "Your personal network" in shown.stdout
    assert shown.stdout.count("<svg") == 2
    assert "Refused to" not in shown.stderr  # the page's own policy is kept
    subprocess.run(
        [*common, f"--screenshot={shot}", file.as_uri()], capture_output=True, timeout=120
    )
    assert shot.stat().st_size > 20_000
