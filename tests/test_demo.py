"""The demo: its images, the committed network, and the run that `make demo` prints."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from finepruning import class_folders, evaluate, load_model
from finepruning.cli.main import main
from finepruning.data.pictures import find_images

DEMO = Path(__file__).parents[1] / "demo"


@pytest.fixture(scope="module")
def people() -> Iterator[ModuleType]:
    pytest.importorskip("sklearn")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(DEMO)
        yield importlib.import_module("people")


@pytest.fixture(scope="module")
def run(people: ModuleType) -> ModuleType:
    return importlib.import_module("run")


def test_committed_network_knows_the_held_out_digits(people: ModuleType) -> None:
    loaded = load_model(f"{DEMO / 'digits.py'}:digits")
    _, _, images, labels = people.split()
    x = torch.stack([loaded.preprocess(people.scan(image)) for image in images])
    found = evaluate(loaded.model, [(x, torch.from_numpy(labels))])
    # 1077 when it was trained; other machines round otherwise.
    assert found.n == 1079
    assert found.correct >= 1070


def test_committed_network_fits_in_the_repository() -> None:
    assert (DEMO / "digits.safetensors").stat().st_size < 1_000_000


def test_held_out_digits_are_not_trained_on(people: ModuleType) -> None:
    train, train_labels, held_out, labels = people.split()
    assert (len(train), len(held_out)) == (len(train_labels), len(labels)) == (718, 1079)
    assert not {image.tobytes() for image in train} & {image.tobytes() for image in held_out}


def test_images_of_a_person(people: ModuleType, tmp_path: Path) -> None:
    for person in people.PEOPLE:
        first, second = tmp_path / person.name / "1", tmp_path / person.name / "2"
        people.write_images(person, first)
        people.write_images(person, second)
        photos, test = find_images(first / "photos")[0], find_images(first / "test")[0]
        assert class_folders(first / "test") == sorted(map(str, person.digits))
        assert len(photos) == people.PHOTOS
        *_, labels = people.split()
        assert len(photos) + len(test) == np.isin(labels, person.digits).sum()
        assert len({path.read_bytes() for path in [*photos, *test]}) == len(photos) + len(test)
        assert [path.read_bytes() for path in find_images(second)[0]] == [
            path.read_bytes() for path in find_images(first)[0]
        ]


@pytest.fixture(scope="module")
def finished(
    run: ModuleType, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, list[dict[str, Any]]]:
    """The demo's text, and what its commands returned."""
    results: list[dict[str, Any]] = []

    def finepruning(*arguments: str) -> dict[str, Any]:
        # In this process: to start Python and PyTorch would take most of the time.
        with contextlib.redirect_stdout(io.StringIO()) as out:
            assert main([*arguments, "--format", "json"]) == 0
        results.append(json.loads(out.getvalue()))
        return results[-1]

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # quicker for so small a network where other work is going on
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "finepruning", finepruning)
        text = run.demo(tmp_path_factory.mktemp("demo"))
    torch.set_num_threads(threads)
    return text, results


def test_table_shows_what_the_commands_found(
    finished: tuple[str, list[dict[str, Any]]],
) -> None:
    text, (first, second, *evaluations) = finished
    for result in (first, second):
        assert result["report"]["sparsity"] == pytest.approx(0.7, abs=0.001)
    # Each person's images, on their own network and on the other's.
    for own, other in (evaluations[:2], evaluations[2:]):
        assert 0.75 < own["dense"]["accuracy"] < 0.92
        assert other["personal"]["accuracy"] < 0.5 < own["personal"]["accuracy"]
        for found in (own["dense"], own["personal"], other["personal"]):
            assert f"{found['correct']}/{found['n']} = {found['accuracy']:.1%}" in text
            assert f"{found['told_correct']}/{found['n']} = {found['told_accuracy']:.1%}" in text


def test_both_people_gain(finished: tuple[str, list[dict[str, Any]]]) -> None:
    _, (_, _, *evaluations) = finished
    for own in evaluations[::2]:
        assert own["personal"]["correct"] > own["dense"]["correct"]


def test_a_failing_command_ends_the_run(
    run: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        run.finepruning("inspect", str(tmp_path / "nothing"))
    out, err = capsys.readouterr()
    assert stop.value.code == 1
    assert out.startswith("$ finepruning inspect ")
    assert "error" in err


def test_an_interrupted_run_leaves_nothing(
    run: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*arguments: str) -> dict[str, Any]:
        assert list(tmp_path.iterdir())
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "finepruning", interrupt)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["run.py"])
    with pytest.raises(KeyboardInterrupt):
        run.main()
    assert not list(tmp_path.iterdir())
