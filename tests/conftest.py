"""One thread for each operation: the networks here are far too small to share out."""

from __future__ import annotations

import re
import signal

import pytest
import torch
from hypothesis import settings

from finepruning.data import batches

torch.set_num_threads(1)
# How long an example takes is the machine's affair.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")
# A shell that starts the tests in the background has Ctrl-C ignored, also in their children.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Left out by `make quick`: the dearest, and of many of a kind all but a few (file::test).
SLOW = re.compile(
    "|".join(
        [
            r"test_families\.py::(?!test_family\[(resnet|bert)-)",
            r"test_speech_families\.py::(?!test_family\[best-(wav2vec2|ast)\])",
            r"test_account_counts\.py::.*(Residual|vit|Encoder)",
            r"test_controls_cost\.py::",
            r"test_memory\.py::test_(what|several|personalises.*macOS|personalises.*Linux)",
            r"test_together\.py::.*-[48]\]",
            r"test_personalize\.py::test_an_error_(at_any_layer\[.*(Memory|System|Keyb)|of_our.*-(F|Z))",
            r"test_replica\.py::test_nothing_stays\[.*-(fast|paper)\]",
            r"test_bench(marks|_speech)\.py::",
            r"test_demo\.py::(?!test_committed)",
            r"test_(main|load|recordings)\.py::.*(closed_pipe|resnet_and_the_dogs|hugging_face_folder)",
            r"test_positions\.py::test_the_same_network_whatever_the_padding",
            r"test_controls\.py::",
            r"test_conformance\.py::test_(options|data)\[(?!.*(0\.7|tuples))",
            r"test_conformance\.py::test_kind\[(conv[13]d|attention-|tied-).*-(fast|paper)\]",
            r"test_personalize\.py::test_no_graph_is_ever_built\[True",
            r"test_sensitivity\.py::.*\[(SET-|neighbours-5)",
        ]
    )
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if SLOW.search(f"{item.path.name}::{item.name}"):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Data of a test is small: let it come in several batches all the same."""
    monkeypatch.setattr(batches, "BATCH_SIZE", 8)
