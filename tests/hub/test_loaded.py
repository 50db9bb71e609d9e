"""How a network's inputs are prepared, and how that is changed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers as hf
from PIL import Image
from torch import Tensor, nn

from finepruning import FinepruningError, FrontEnd, Loaded, Preprocess
from finepruning.cli.options import IMAGE_OPTIONS
from finepruning.data.front_end import hub_front_end
from finepruning.hub.loaded import ImageOptions

NET = nn.Flatten()


def green(image: Image.Image) -> Tensor:
    return torch.tensor(0.5)


def energies(wave: Tensor) -> Tensor:
    return wave.unfold(0, 80, 40).square().mean(1)


energies.rate = 8000  # type: ignore[attr-defined]


def test_what_is_not_given_stays() -> None:
    loaded = Loaded(NET, Preprocess(crop=64), ("a", "b"), assumed=True)
    assert loaded.preparing_images() == loaded
    changed = loaded.preparing_images(resize=None, mean=(0.5,))
    assert changed.preprocess == Preprocess(resize=None, crop=64, mean=(0.5,))
    assert changed.model is NET
    assert changed.classes == ("a", "b")
    assert (loaded.assumed, changed.assumed) == (True, False)
    assert loaded.preprocess == Preprocess(crop=64), "the given one is as it was"
    again = changed.preparing_images(crop=32)
    assert again.preprocess == Preprocess(resize=None, crop=32, mean=(0.5,))


def test_lists_do_for_tuples() -> None:
    options = {"mean": [0.5, 0.5, 0.5], "std": [1.0]}
    loaded = Loaded(NET, Preprocess()).preparing_images(**options)  # type: ignore[arg-type]
    assert loaded.preprocess == Preprocess(mean=(0.5,) * 3, std=(1.0,))


def test_preprocessing_of_its_own_is_replaced_as_a_whole() -> None:
    loaded = Loaded(NET, green)
    assert loaded.preparing_images().preprocess is green
    message = "--crop: the model brings its own preprocessing; give all of --resize"
    with pytest.raises(FinepruningError, match=message):
        loaded.preparing_images(crop=8)
    whole = loaded.preparing_images(resize=8, crop=8, mean=(0.0,), std=(1.0,))
    assert whole.preprocess == Preprocess(8, 8, (0.0,), (1.0,))


def test_what_cannot_be() -> None:
    with pytest.raises(FinepruningError, match="crop: 0"):
        Loaded(NET, Preprocess()).preparing_images(crop=0)
    with pytest.raises(TypeError, match="size"):
        Loaded(NET, Preprocess()).preparing_images(size=3)  # type: ignore[call-arg]
    with pytest.raises(FinepruningError, match="rate: 0"):
        Loaded(NET, green, own=True).preparing_audio(rate=0)
    with pytest.raises(FinepruningError, match=r"--front-end energies: give FILE\.py:function"):
        Loaded(NET, green, own=True).preparing_audio("energies")


def test_one_kind_of_input() -> None:
    images, audio = Loaded(NET, Preprocess()), Loaded(NET, green, front=FrontEnd(), name="x/ctc")
    assert (images.takes_images, images.takes_audio) == (True, False)
    assert (audio.takes_images, audio.takes_audio) == (False, True)
    with pytest.raises(FinepruningError, match="--model the model: takes images"):
        images.preparing_audio()
    with pytest.raises(FinepruningError, match="--model x/ctc: takes audio"):
        audio.preparing_images()
    own = Loaded(NET, green, own=True)
    assert own.takes_images
    assert own.takes_audio
    assert not own.preparing_images().takes_audio, "said to take images"
    assert not own.preparing_audio().takes_images, "said to take audio"


def test_front_ends(tmp_path: Path) -> None:
    assumed = Loaded(NET, Preprocess(), assumed=True, own=True)
    wave = assumed.preparing_audio()
    assert wave.front == FrontEnd()
    assert wave.assumed
    own = Loaded(NET, energies, own=True).preparing_audio()
    assert own.front == FrontEnd(energies, 8000, name="prepared by the model's own code")
    given = assumed.preparing_audio(energies, seconds=2)
    assert given.front == FrontEnd(energies, 8000, 2, "energies")
    assert not given.assumed
    assert given.preparing_audio(rate=4000).front == FrontEnd(energies, 4000, 2, "energies")
    front = FrontEnd(energies, 100, 3.0, "mine")
    assert given.preparing_audio(front).front == front
    (tmp_path / "front.py").write_text("def double(wave):\n    return 2 * wave\n")
    file = given.preparing_audio(f"{tmp_path / 'front.py'}:double").front
    assert file is not None
    assert (file.name, file.rate) == (f"{tmp_path / 'front.py'}:double", 16000)
    assert torch.equal(file(torch.ones(3)), torch.full((3,), 2.0))  # type: ignore[arg-type]


def test_what_hugging_face_fixed_stays_fixed() -> None:
    extractor = hf.WhisperFeatureExtractor(chunk_length=2)
    loaded = Loaded(NET, green, front=hub_front_end(extractor))
    front = loaded.preparing_audio(rate=16000, seconds=1.5).front
    assert front is not None
    assert front.longest == 1.5
    with pytest.raises(FinepruningError, match=r"--rate 8000: the model's own front end takes"):
        loaded.preparing_audio(rate=8000)
    with pytest.raises(FinepruningError, match=r"--seconds 3: .*at most 2 s; leave --seconds out"):
        loaded.preparing_audio(seconds=3)


def test_the_command_has_an_option_for_each() -> None:
    assert set(IMAGE_OPTIONS) == set(ImageOptions.__annotations__)
    assert set(IMAGE_OPTIONS) == set(Preprocess.__dataclass_fields__)
