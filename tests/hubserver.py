"""A hub as Hugging Face's library talks to one: repositories in memory, on this machine alone."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

SHA = "0" * 40


@dataclass
class Hub:
    url: str = ""
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    """By repository and path."""
    visibility: dict[str, str] = field(default_factory=dict)


class _Handler(BaseHTTPRequestHandler):
    def __init__(self, hub: Hub, *args: Any) -> None:
        self.hub = hub
        super().__init__(*args)

    def log_message(self, *args: Any) -> None:
        pass

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        if parts == ["api", "repos", "create"]:
            asked = json.loads(body)
            repo = f"{asked['organization']}/{asked['name']}"
            self.hub.files.setdefault(repo, {})
            self.hub.visibility[repo] = asked["visibility"]
            self._json({"url": f"{self.hub.url}/{repo}", "name": repo, "id": repo})
        elif parts == ["api", "validate-yaml"]:
            self._json({"errors": [], "warnings": []})
        elif parts[4] == "preupload":
            asked = json.loads(body)["files"]
            given = [{"path": f["path"], "uploadMode": "regular"} for f in asked]
            self._json({"files": [{**f, "shouldIgnore": False} for f in given]})
        else:
            there = self.hub.files["/".join(parts[2:4])]
            for line in body.splitlines():
                entry = json.loads(line)
                value = entry["value"]
                if entry["key"] == "file":
                    there[value["path"]] = base64.b64decode(value["content"])
                elif entry["key"] == "deletedFile":
                    del there[value["path"]]
            address = f"{self.hub.url}/{'/'.join(parts[2:4])}/commit/{SHA}"
            self._json({"success": True, "commitOid": SHA, "commitUrl": address})

    def do_GET(self) -> None:
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        api = parts[0] == "api"
        repo = "/".join(parts[2:4] if api else parts[:2])
        there = self.hub.files.get(repo)
        if there is None:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif api and parts[4] == "tree":
            self._json(
                [
                    {"type": "file", "path": k, "size": len(v), "oid": hashlib.sha1(v).hexdigest()}
                    for k, v in there.items()
                ]
            )
        elif api:
            siblings = [{"rfilename": path} for path in there]
            self._json({"id": repo, "sha": SHA, "siblings": siblings, "tags": []})
        else:
            self._bytes(there["/".join(parts[4:])])

    do_HEAD = do_GET  # noqa: N815

    def _json(self, value: Any) -> None:
        self._bytes(json.dumps(value).encode(), "application/json")

    def _bytes(self, data: bytes, kind: str = "application/octet-stream") -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("ETag", f'"{hashlib.sha1(data).hexdigest()}"')
        self.send_header("X-Repo-Commit", SHA)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


@contextmanager
def hub() -> Iterator[Hub]:
    """One that is there as long as the block."""
    held = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, held))
    held.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield held
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
