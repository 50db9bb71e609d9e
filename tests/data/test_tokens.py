"""What an encoder-decoder network is fed: its own transcript, no longer than told."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from finepruning import Config, personalize
from finepruning.data.batches import read_batches
from finepruning.data.tokens import generate, started, transcribed, writes_tokens

START, END = 1, 2


class Writer(nn.Module):
    """Writes as many words as the first number that it hears says, each of them the same."""

    def __init__(self, room: int = 512) -> None:
        super().__init__()
        self.config = SimpleNamespace(
            is_encoder_decoder=True, decoder_start_token_id=START, max_position_embeddings=room
        )
        self.generation_config = SimpleNamespace(eos_token_id=END)
        self.listen, self.write = nn.Linear(4, 16), nn.Linear(16, 9)
        self.words = nn.Embedding(9, 16)
        self.asked: list[int] = []

    def forward(self, input_values: Tensor, decoder_input_ids: Tensor) -> Tensor:
        heard = self.listen(input_values)[:, None]
        return self.write(heard + self.words(decoder_input_ids))

    def generate(self, input_values: Tensor, max_new_tokens: int, **_: Any) -> Tensor:
        self.asked.append(max_new_tokens)
        count = input_values[:, 0].long().clamp(max=max_new_tokens)
        tokens = torch.full((len(input_values), int(count.max()) + 2), END)
        tokens[:, 0] = START
        for row, n in zip(tokens, count, strict=True):
            row[1 : 1 + int(n)] = 5
        return tokens


def data(*lengths: int) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(len(lengths), 4, generator=generator)
    x[:, 0] = torch.tensor(lengths)
    return [{"input_values": x}]


def test_samples_of_one_length_come_together() -> None:
    (batch,) = read_batches(data(3, 3, 1, 2))
    parts = list(transcribed(Writer(), batch, 128))
    assert [part.size for part in parts] == [2, 1, 1]
    assert sum(part.items for part in parts) == batch.items
    ids = [part.inputs["decoder_input_ids"] for part in parts]
    assert ids[0].tolist() == [[START, 5, 5, 5]] * 2
    assert ids[1].tolist() == [[START, 5]]
    torch.testing.assert_close(
        torch.cat([part.inputs["input_values"] for part in parts]), batch.inputs["input_values"]
    )


@pytest.mark.parametrize(("longest", "asked"), [(128, 128), (2, 2), (600, 504)])
def test_no_longer_than_told_nor_than_there_is_room(longest: int, asked: int) -> None:
    (batch,) = read_batches(data(3, 1))
    model = Writer()
    parts = list(transcribed(model, batch, longest))
    assert model.asked == [asked]
    assert max(part.inputs["decoder_input_ids"].shape[1] for part in parts) == 1 + min(3, longest)
    generate(model, batch)
    assert model.asked[1] == Config().observe.transcript


def test_the_length_is_a_choice_on_record(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    original = Writer.generate

    def noted(self: Writer, *args: Any, max_new_tokens: int, **others: Any) -> Tensor:
        asked.append(max_new_tokens)  # of a copy of the model: it is left as it is
        return original(self, *args, max_new_tokens=max_new_tokens, **others)

    monkeypatch.setattr(Writer, "generate", noted)
    config = Config(observe={"transcript": 4})
    report = personalize(Writer(), data(*[3, 5] * 10), config=config, progress=False).report
    assert {*asked} == {4}
    assert report.config["observe"]["transcript"] == 4


def test_what_brings_its_own_or_needs_none_is_left() -> None:
    (batch,) = read_batches(data(3, 1))
    assert not writes_tokens(nn.Linear(4, 4))
    assert list(transcribed(nn.Linear(4, 4), batch, 128)) == [batch]
    begun = started(Writer(), batch)
    assert begun.inputs["decoder_input_ids"].tolist() == [[START]] * 2
    assert started(Writer(), begun) is begun
    assert list(transcribed(Writer(), begun, 128)) == [begun]
