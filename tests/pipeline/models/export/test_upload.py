"""Uploading to the hub, against a stub of its client, and its client against a local server."""

from __future__ import annotations

import base64
import json
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest

from fpd.pipeline.models.export.upload import HubTarget, check_target, upload


class Hub:
    """What `huggingface_hub.HfApi` is used for.

    Attributes:
        repositories: whether each is private.
        commits: (repository, {path: content}).
        error: what every call raises; None: none.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, bool] = {}
        self.commits: list[tuple[str, dict[str, bytes]]] = []
        self.error: Exception | None = None

    def create_repo(self, name: str, *, private: bool, exist_ok: bool) -> str:
        if self.error is not None:
            raise self.error
        assert exist_ok
        self.repositories.setdefault(name, private)
        return f"https://huggingface.co/{name}"

    def model_info(self, name: str) -> Any:
        return SimpleNamespace(private=self.repositories[name])

    def create_commit(self, name: str, operations: list[Any], *, commit_message: str) -> None:
        assert commit_message
        contents = {o.path_in_repo: Path(o.path_or_fileobj).read_bytes() for o in operations}
        self.commits.append((name, contents))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    stub = Hub()
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda **_: stub)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "hf_stub")
    return stub


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    (tmp_path / "student.onnx").write_bytes(b"model")
    (tmp_path / "student.onnx.md").write_bytes(b"card")
    return {
        "student.onnx": tmp_path / "student.onnx",
        "README.md": tmp_path / "student.onnx.md",
    }


@pytest.mark.parametrize("private", [False, True])
def test_all_files_are_in_one_commit(hub: Hub, files: dict[str, Path], private: bool) -> None:
    target = HubTarget("team/student", private=private)
    check_target(target)
    assert upload(target, files) == "https://huggingface.co/team/student"
    assert hub.repositories == {"team/student": private}
    assert hub.commits == [("team/student", {"student.onnx": b"model", "README.md": b"card"})]


def test_a_private_upload_does_not_go_to_a_public_repository(
    hub: Hub, files: dict[str, Path]
) -> None:
    hub.repositories["team/student"] = False
    with pytest.raises(ValueError, match=r"is public: nothing was uploaded"):
        upload(HubTarget("team/student", private=True), files)
    assert not hub.commits


@pytest.mark.parametrize(
    ("status", "message"),
    [(403, "a token that may write there"), (None, "with a connection"), (500, "could not be")],
)
def test_a_failure_is_one_sentence(
    hub: Hub, files: dict[str, Path], status: int | None, message: str
) -> None:
    hub.error = ConnectionError("a long text\nof many lines")
    if status is not None:
        hub.error.response = SimpleNamespace(status_code=status)  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match=message) as caught:
        upload(HubTarget("team/student"), files)
    assert "\n" not in str(caught.value) and "ConnectionError" in str(caught.value)


@pytest.mark.parametrize("name", ["student", "a/b/c", "../b", "a/..", "https://huggingface.co/a/b"])
def test_a_wrong_name_is_refused(hub: Hub, name: str) -> None:
    with pytest.raises(ValueError, match="expected ORG/NAME"):
        check_target(HubTarget(name))


def test_a_missing_token_or_package_is_named(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    with pytest.raises(ValueError, match="hf auth login"):
        check_target(HubTarget("team/student"))
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ValueError, match=r"pip install 'fast-pose-distillation\[hub\]'"):
        check_target(HubTarget("team/student"))


class Server(HTTPServer):
    """What the hub's API answers to its own client when small files are committed.

    Attributes:
        committed: contents by path.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.committed: dict[str, bytes] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def answer(self, path: str, body: bytes) -> dict[str, Any]:
        if path == "/api/repos/create":
            request = json.loads(body)
            assert (request["organization"], request["name"]) == ("team", "student")
            assert request.get("private") or request.get("visibility") == "private"
            return {"url": f"{self.url}/team/student"}
        if path.startswith("/api/models/team/student/preupload/"):
            files = [
                {"path": f["path"], "uploadMode": "regular"} for f in json.loads(body)["files"]
            ]
            return {"files": [file | {"shouldIgnore": False} for file in files]}
        if path.startswith("/api/models/team/student/commit/"):
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    value = line["value"]
                    self.committed[value["path"]] = base64.b64decode(value["content"])
            return {"commitUrl": f"{self.url}/team/student/commit/0", "commitOid": "0" * 40}
        if path == "/api/models/team/student":
            return {"id": "team/student", "private": True}
        return {}  # /api/validate-yaml


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        answer = json.dumps(self.server.answer(self.path.partition("?")[0], body)).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_GET = do_POST

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_the_hubs_own_client_uploads_to_a_server(
    server: Server, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    client = partial(huggingface_hub.HfApi, endpoint=server.url, token="hf_stub")
    monkeypatch.setattr(huggingface_hub, "HfApi", client)
    url = upload(HubTarget("team/student", private=True), files)
    assert url.endswith("/team/student")
    assert server.committed == {"student.onnx": b"model", "README.md": b"card"}
