"""Transcripts found in every form in which people and corpora keep them."""

from __future__ import annotations

import codecs
from pathlib import Path

import pytest

from finepruning import FinepruningError, find_texts
from finepruning.scoring.texts import plain
from speech import clip


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("transcripts.csv", "file_name,text\na.wav,\"Hello, you\"\nsub/b.wav,Good bye\n"),
        ("metadata.csv", "speaker,transcription,path\n7,\"Hello, you\",a.wav\n7,Good bye,b\n"),
        ("transcripts.tsv", "a.wav\tHello you\nsub/b\tGood bye\n"),
        ("transcripts.txt", "a Hello you\nb.wav Good bye\n"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("given", [False, True])
def test_lists(tmp_path: Path, name: str, text: str, given: bool) -> None:
    a, b, _ = clip(tmp_path / "a.wav"), clip(tmp_path / "sub/b.wav"), clip(tmp_path / "c.wav")
    file = tmp_path / ("given." + name.partition(".")[2] if given else name)
    file.write_text(text)
    assert find_texts(tmp_path, file if given else None) == {a: "hello you", b: "good bye"}


def test_beside_each_clip_and_librispeech(tmp_path: Path) -> None:
    a, b = clip(tmp_path / "a.wav"), clip(tmp_path / "19" / "198" / "19-198-0001.flac")
    (tmp_path / "a.txt").write_text("Turn it ON!\n")
    (b.parent / "19-198.trans.txt").write_text("19-198-0000 OTHER\n19-198-0001 NORTHANGER ABBEY\n")
    assert find_texts(tmp_path) == {a: "turn it on", b: "northanger abbey"}


def test_no_transcripts_is_an_error(tmp_path: Path) -> None:
    clip(tmp_path / "a.wav")
    with pytest.raises(FinepruningError, match=r"no transcripts found.*--transcripts FILE"):
        find_texts(tmp_path)
    with pytest.raises(FinepruningError, match=r"none\.csv: cannot be read"):
        find_texts(tmp_path, tmp_path / "none.csv")


@pytest.mark.parametrize(
    ("name", "held"),
    [
        ("list.tsv", b'a.wav\t"well he said\nb.wav\tyes'),
        ("list.csv", b"path;text\na.wav;well, he said\nb.wav;yes"),
        ("list.txt", codecs.BOM_UTF16_LE + "a.wav well he said\nb.wav yes".encode("utf-16-le")),
    ],
)
def test_lists_as_people_write_them(tmp_path: Path, name: str, held: bytes) -> None:
    for clip_name in "ab":
        clip(tmp_path / f"{clip_name}.wav")
    (tmp_path / name).write_bytes(held)
    found = find_texts(tmp_path, tmp_path / name)
    assert {path.name: text for path, text in found.items()} == {
        "a.wav": "well he said",
        "b.wav": "yes",
    }


def test_plain() -> None:
    assert plain(" «Don’t» -- STOP,\tnow! 'quoted' ") == "don't stop now quoted"
    assert plain("تشغيل، الآن") == "تشغيل الآن"
