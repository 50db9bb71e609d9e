"""Word and character errors: compared with jiwer, read from real CTC classes, by the command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers as hf
from torch import nn

from finepruning import FinepruningError, evaluate_transcripts
from finepruning.cli.main import main
from finepruning.scoring.transcripts import ratio_interval, score
from speech import clip


def test_score_counts() -> None:
    found = score(["turn it off", "stop"], ["Turn off!", "stop please"])
    assert (found.words, found.word_errors, found.clips) == (4, 2, 2)
    assert found.wer == 0.5
    assert (found.characters, found.character_errors) == (15, 10)
    assert found.wer_interval is not None
    assert found.wer_interval[0] <= 0.5 <= found.wer_interval[1]
    assert score(["stop"], [""]).wer == 1
    assert score(["stop"], ["x"]).wer_interval is None
    assert json.dumps(found.to_dict())
    with pytest.raises(FinepruningError, match="nothing to compare"):
        score([], [])


def test_ratio_interval_covers() -> None:
    """Over 500 draws of 60 clips, the interval holds the true rate about 95 times of 100."""
    random = np.random.default_rng(0)
    hits = 0
    for _ in range(500):
        sizes = random.integers(1, 12, 60)
        low, high = ratio_interval(random.binomial(sizes, 0.2).tolist(), sizes.tolist()) or (1, 0)
        hits += low <= 0.2 <= high
    assert 450 <= hits <= 490


@pytest.fixture(scope="module")
def wav2vec2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hub") / "wav2vec2"
    letters = ["<pad>", "<s>", "</s>", "<unk>", "|", *"abcdefghijklmnopqrstuvwxyz"]
    vocab = folder.parent / "vocab.json"
    vocab.write_text(json.dumps({c: i for i, c in enumerate(letters)}))
    torch.manual_seed(0)
    config = hf.Wav2Vec2Config(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        conv_dim=(8, 8), conv_kernel=(10, 3), conv_stride=(160, 2), vocab_size=len(letters),
        num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2, pad_token_id=0,
    )  # fmt: skip
    hf.Wav2Vec2ForCTC(config).save_pretrained(folder)
    hf.Wav2Vec2FeatureExtractor().save_pretrained(folder)
    hf.Wav2Vec2CTCTokenizer(str(vocab)).save_pretrained(folder)
    return folder


def test_a_blank_keeps_two_letters_apart(wav2vec2: Path) -> None:
    """As the pipeline of transformers does it: ``l <pad> l`` is two letters, ``l l`` is one."""

    class Says(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            ids = torch.tensor([letters.index(c) for c in said])
            return torch.nn.functional.one_hot(ids, len(letters))[None].float()

    letters = ["<pad>", "<s>", "</s>", "<unk>", "|", *"abcdefghijklmnopqrstuvwxyz"]
    said = ["h", "h", "e", "l", "<pad>", "l", "l", "o", "|", "<pad>", "u"]
    reader = hf.AutoTokenizer.from_pretrained(wav2vec2)
    found = evaluate_transcripts(Says(), reader, [(torch.zeros(1, 8), ["hello u"])])
    assert found.character_errors == 0


def test_flags_are_put_back_and_the_model_stays_where_it_is(wav2vec2: Path) -> None:
    model = hf.Wav2Vec2ForCTC.from_pretrained(wav2vec2).train()
    model.lm_head.eval()
    reader = hf.AutoTokenizer.from_pretrained(wav2vec2)
    found = evaluate_transcripts(model, reader, [(torch.randn(2, 3200), ["hello", "you"])])
    assert (found.clips, found.words) == (2, 2)
    assert model.training
    assert not model.lm_head.training
    with pytest.raises(FinepruningError, match="no data"):
        evaluate_transcripts(model, reader, [])
    with pytest.raises(FinepruningError, match="no logits"):
        evaluate_transcripts(nn.Flatten(), reader, [(torch.zeros(1, 4), ["a"])])


def test_personalize_and_evaluate(
    wav2vec2: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    notes = tmp_path / "notes"
    for i in range(6):
        clip(notes / f"{i}.wav", 0.4 + 0.1 * (i % 3)).with_suffix(".txt").write_text("hello you")
    clip(notes / "unknown.wav")
    data = ["--model", str(wav2vec2), "--data", str(notes), "--format", "json"]
    out = str(tmp_path / "me")
    assert main(["personalize", *data, "--out", out, "--sparsity", "0.5"]) == 0
    report = json.loads(capsys.readouterr().out)["report"]
    assert "a vocabulary is no list of classes" in report["readout"]["reason"]
    assert main(["evaluate", *data, "--personal", out]) == 0
    result = json.loads(capsys.readouterr().out)
    for name in ("dense", "personal"):
        assert (result[name]["clips"], result[name]["words"]) == (6, 12)
        assert result[name]["characters"] == 6 * len("hello you")
        assert result[name]["latency"] > 0
    assert [(Path(s["path"]).name, s["reason"]) for s in result["skipped"]][-1] == (
        "unknown.wav", "no transcript"
    )  # fmt: skip
    assert main(["evaluate", *data[:-2]]) == 0
    assert "word error rate" in capsys.readouterr().out
