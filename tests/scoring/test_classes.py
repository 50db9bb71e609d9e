"""What the names of class folders mean: which output each stands for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from finepruning import FinepruningError, match_classes


def test_numbers_are_indices_only_if_all_are() -> None:
    assert match_classes(["7", "11"], 1000) == {"7": 7, "11": 11}
    assert match_classes(["7", "up"], 2) == {"7": 0, "up": 1}
    with pytest.raises(FinepruningError, match="output 12, but the network has 10"):
        match_classes(["1", "12"], 10)


def test_text_file(tmp_path: Path) -> None:
    file = tmp_path / "classes.txt"
    file.write_text("n01 tench, Tinca tinca\nn02 Great_White shark\nn03 crane\nn04 crane\n")
    assert match_classes(["n02", "n01"], 4, file=file) == {"n02": 1, "n01": 0}
    assert match_classes(["Tench", "great white_shark"], 4, file=file) == {
        "Tench": 0,
        "great white_shark": 1,
    }
    with pytest.raises(FinepruningError, match=r"'crane' fits outputs \[2, 3\]"):
        match_classes(["crane"], 4, file=file)
    with pytest.raises(FinepruningError, match=r"'horse' \(1 of 2\)"):
        match_classes(["tench", "horse"], 4, file=file)
    with pytest.raises(FinepruningError, match="output 3, but the network has 2"):
        match_classes(["n04"], 2, file=file)


def test_json_file(tmp_path: Path) -> None:
    file = tmp_path / "classes.json"
    file.write_text(json.dumps({"my dog": 155, "7": 3}))
    assert match_classes(["7", "my dog"], 1000, file=file) == {"my dog": 155, "7": 3}
    with pytest.raises(FinepruningError, match="'cat'"):
        match_classes(["cat"], 1000, file=file)
    file.write_text(json.dumps(["cat", "my dog"]))
    assert match_classes(["my dog"], 2, file=file) == {"my dog": 1}


@pytest.mark.parametrize("text", ["{", '{"a": "b"}', "3", "[1, 2]"])
def test_bad_json_file(tmp_path: Path, text: str) -> None:
    file = tmp_path / "classes.json"
    file.write_text(text)
    with pytest.raises(FinepruningError, match=r"--classes .*classes\.json: "):
        match_classes(["a"], 3, file=file)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FinepruningError, match="cannot be read"):
        match_classes(["a"], 3, file=tmp_path / "none.txt")


def test_the_models_own_names_then_the_sorted_order() -> None:
    names = ["bird", "cat, house cat", "dog"]
    assert match_classes(["Dog", "house cat"], 3, names=names) == {"Dog": 2, "house cat": 1}
    assert match_classes(["b", "a"], 2, names=["x", "y"]) == {"a": 0, "b": 1}
    with pytest.raises(FinepruningError, match="'horse'"):
        match_classes(["dog", "horse"], 3, names=names)
    with pytest.raises(FinepruningError, match="--classes FILE"):
        match_classes(["a", "b"], 1000)


def test_a_whole_name_goes_before_part_of_another() -> None:
    assert match_classes(["crane"], 2, names=["bird, crane", "crane"]) == {"crane": 1}
