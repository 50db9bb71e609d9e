"""Artifacts on a Hugging Face hub: a model repository with a card that says what was done."""

from __future__ import annotations

import json
import os
import re
import tempfile
from pathlib import Path
from typing import Any

from .._errors import FinepruningError, told
from ..artifact.layout import JSON, check_place, read_about
from ..artifact.seal import ZEROS, sealed
from ..artifact.store import Folder, copy, verify, whole
from ..report.text import summary
from .libraries import import_library

CARD = """---
library_name: finepruning
tags:
- finepruning
- pruning
- personalization
{base}---

# One person's network

What makes a pretrained network this person's: which of its weights stay, and what they are. It is
no network by itself; it belongs to the base network `{model}`{weights}.

```sh
pip install finepruning
finepruning pull {repo} me/
```

```python
model = finepruning.load("me/", base)
```

## What was done

```
{report}
```

Made with [finepruning](https://arxiv.org/abs/2602.18507) {version}, {written}. SHA-256 of the
base's weights as `finepruning` computes it: `{fingerprint}`.
"""


def push(
    path: str | os.PathLike[str],
    repo: str,
    *,
    key: bytes | None = None,
    token: str | None = None,
    private: bool = True,
    endpoint: str | None = None,
) -> str:
    """Put the artifact at ``path`` in the model repository ``repo`` of a Hugging Face hub.

    >>> push("me/", "ann/resnet50-ann")  # doctest: +SKIP
    'https://huggingface.co/ann/resnet50-ann'

    The repository is made where there is none, and only its owner sees it unless ``private`` is
    False. Statistics of the person's samples stay here, and of this machine's paths the last part
    goes. ``key`` is what the artifact is sealed with; ``token`` and ``endpoint`` are as in
    huggingface_hub (default: who is logged in, the public hub). Returns the address. Raises
    :class:`FinepruningError` where the artifact is damaged, or the hub refuses.
    """
    hub = import_library("huggingface_hub", repo)
    given = Path(path)
    files = whole(given, key)
    verify(given, key)
    about = read_about(given, key)
    with tempfile.TemporaryDirectory() as made, told(f"{repo}: the hub cannot be used"):
        folder = Path(made, "artifact")
        copy([file for file in files if not file.name.startswith("statistics")], folder)
        if "files" in about:
            about["files"] = {k: v for k, v in about["files"].items() if k != "statistics"}
        (folder / JSON).write_bytes(_text(about, key))
        (folder / "README.md").write_text(card(about, repo), encoding="utf-8")
        api = hub.HfApi(endpoint=endpoint, token=token)
        address = str(api.create_repo(repo, private=private, exist_ok=True))
        api.upload_folder(
            repo_id=repo, folder_path=str(folder), commit_message="An artifact of finepruning",
            delete_patterns=["personal*.safetensors", "statistics*.safetensors"],
        )  # fmt: skip
    return address


def pull(
    repo: str,
    path: str | os.PathLike[str],
    *,
    key: bytes | None = None,
    token: str | None = None,
    revision: str | None = None,
    endpoint: str | None = None,
) -> None:
    """Take the artifact out of the repository ``repo`` of a hub, into a new folder at ``path``.

    >>> pull("ann/resnet50-ann", "me/")  # doctest: +SKIP

    Every bit is checked before the folder is there. Parameters are as for :func:`push`;
    ``revision`` is a branch, tag or commit. Raises :class:`FinepruningError` where there is no such
    artifact, it is damaged, or ``path`` exists.
    """
    hub = import_library("huggingface_hub", repo)
    out = Path(path).absolute()
    check_place(out)
    with tempfile.TemporaryDirectory() as made:
        with told(f"{repo}: the hub cannot be used"):
            hub.snapshot_download(
                repo, revision=revision, token=token, endpoint=endpoint, local_dir=made,
                allow_patterns=[JSON, "personal*.safetensors"],
            )  # fmt: skip
        if not Path(made, JSON).is_file():
            raise FinepruningError(f"{repo}: holds no artifact of finepruning")
        files = whole(Path(made), key)

        def write(folder: Path) -> None:
            copy(files, folder)
            verify(folder, key)

        Folder(out.parent).put(out.name, write, key)


def card(about: dict[str, Any], repo: str) -> str:
    """The model card of an artifact whose JSON says ``about``."""
    source = about.get("source", {})
    model = str(source.get("model", "of the author's"))
    on_hub = re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", model) is not None
    return CARD.format(
        base=f"base_model: {model}\n" if on_hub else "",
        model=model,
        weights=f", with the weights `{source['weights']}`" if "weights" in source else "",
        repo=repo,
        report=summary(about["report"]),
        version=about.get("versions", {}).get("finepruning", ""),
        written=about.get("written", ""),
        fingerprint=about["base"],
    )


def _text(about: dict[str, Any], key: bytes | None) -> bytes:
    """The JSON anew, without this machine's paths."""
    source = about.get("source")
    if isinstance(source, dict):
        about["source"] = {
            name: os.path.basename(value.rstrip("/")) if _is_path(value) else value
            for name, value in source.items()
        }
    if "digest" not in about:  # of the first format, which has none
        return json.dumps(about, indent=1).encode()
    text = json.dumps({**about, "digest": ZEROS.decode()}, indent=1)
    return sealed(f"{text}\n".encode(), key)


def _is_path(value: Any) -> bool:
    return isinstance(value, str) and os.path.isabs(value)
