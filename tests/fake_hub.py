"""A hub on this machine, for tests. It speaks the requests of huggingface_hub without Xet storage."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import constants

TOKEN = "hf_write"


@dataclass
class FakeHub:
    """Repositories in memory: name -> path -> bytes."""

    address: str = ""
    repos: dict[str, dict[str, bytes]] = field(default_factory=dict)
    private: dict[str, bool] = field(default_factory=dict)
    commits: dict[str, dict[str, dict[str, bytes]]] = field(default_factory=dict)
    elsewhere: set[str] = field(default_factory=set)
    objects: dict[str, bytes] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    cards: list[dict[str, Any]] = field(default_factory=list)
    broken_uploads: bool = False
    role: str = "write"

    def use(self, monkeypatch: pytest.MonkeyPatch, token: str = TOKEN) -> None:
        """Be the Hub of this process, as HF_ENDPOINT and HF_TOKEN make it for another one."""
        monkeypatch.setattr(constants, "ENDPOINT", self.address)
        template = self.address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setenv("HF_TOKEN", token)

    def answer(self, method: str, path: str, token: str, body: bytes) -> tuple[int, dict[str, Any]]:
        """Status and JSON of a request."""
        self.requests.append(f"{method} {path}")
        if method == "PUT":  # storage, reached by a signed address instead of a token
            assert path.startswith("/storage/")
            if self.broken_uploads:
                return 400, {"error": "storage says no"}
            assert hashlib.sha256(body).hexdigest() == path.removeprefix("/storage/")
            self.objects[path.removeprefix("/storage/")] = body
            return 200, {}
        if path == "/api/validate-yaml":
            text = json.loads(body)["content"]
            self.cards.append(yaml.safe_load(text.split("---\n")[1]))
            return 200, {"errors": [], "warnings": []}
        if token != f"Bearer {TOKEN}":
            return 401, {"error": "Invalid username or password."}
        if path == "/api/whoami-v2":
            return 200, {
                "type": "user",
                "name": "me",
                "orgs": [{"name": name} for name in ("My-Org", "1")],
                "auth": {"accessToken": {"role": self.role}},
            }
        if path == "/api/repos/create":
            return self.create(json.loads(body))
        if path.endswith(".git/info/lfs/objects/batch"):
            return 200, {"transfer": "basic", "objects": [self.slot(o) for o in json.loads(body)["objects"]]}
        repo = "/".join(path.removeprefix("/api/models/").split("/")[:2])
        if repo not in self.repos:
            return 404, {"error": "Repository not found"}
        if path == f"/api/models/{repo}":
            return 200, {"id": repo, "private": self.private[repo], "sha": "0" * 40}
        if path == f"/api/models/{repo}/preupload/main":
            return 200, {"files": [self.mode(file) for file in json.loads(body)["files"]]}
        assert path == f"/api/models/{repo}/commit/main"
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                self.repos[repo][value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                self.repos[repo][value["path"]] = self.objects[value["oid"]]
            else:
                assert line["key"] == "header"
        return 200, {"commitUrl": f"{self.address}/{repo}/commit/{'1' * 40}", "commitOid": "1" * 40}

    def file(self, path: str) -> tuple[int, str, bytes, dict[str, str]]:
        """Status, content type, content and headers of `/USER/NAME/resolve/REVISION/FILE`."""
        repo, _, rest = path.removeprefix("/").partition("/resolve/")
        revision, _, name = rest.partition("/")
        if repo not in self.commits:
            return 404, "text/plain", b"Repository not found", {"X-Error-Code": "RepoNotFound"}
        revisions = self.commits[repo]
        commit = list(revisions)[-1] if revision == "main" else revision
        if commit not in revisions:
            return 404, "text/plain", b"Revision not found", {"X-Error-Code": "RevisionNotFound"}
        content = revisions[commit].get(name)
        if content is None:
            return 404, "text/plain", b"Entry not found", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit}
        etag = hashlib.sha256(content).hexdigest()
        return 200, "application/octet-stream", content, {"ETag": f'"{etag}"', "X-Repo-Commit": commit}

    def create(self, asked: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        repo = f"{asked['organization']}/{asked['name']}"
        assert asked.get("type") in (None, "model")
        if asked["organization"] == "somebody":
            return 403, {"error": "You don't have the rights to create a model under this namespace"}
        if repo in self.repos or repo in self.elsewhere:
            return 409, {"error": "You already created this repo", "url": f"{self.address}/{repo}"}
        self.repos[repo], self.private[repo] = {}, asked.get("visibility") == "private"
        return 200, {"url": f"{self.address}/{repo}"}

    def slot(self, asked: dict[str, Any]) -> dict[str, Any]:
        href = f"{self.address}/storage/{asked['oid']}"
        known = asked["oid"] in self.objects
        return {**asked, **({} if known else {"actions": {"upload": {"href": href}}})}

    def mode(self, file: dict[str, Any]) -> dict[str, Any]:
        large = not file["path"].endswith((".md", ".json"))
        return {"path": file["path"], "uploadMode": "lfs" if large else "regular", "shouldIgnore": False}


@contextmanager
def running_hub(monkeypatch: pytest.MonkeyPatch, scratch: Path) -> Iterator[FakeHub]:
    """A hub on this machine, with the client's settings made as on a user's one; it keeps its cache in `scratch`."""
    fake = FakeHub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def reply(self) -> None:
            body = self._chunks() if "chunked" in self.headers.get("Transfer-Encoding", "") else self._plain()
            if "/resolve/" in self.path:
                self._file()
                return
            try:
                status, value = fake.answer(self.command, self.path, self.headers.get("Authorization", ""), body)
            except Exception as error:
                status, value = 418, {"error": repr(error)}
            content = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            if status == 404:
                self.send_header("X-Error-Code", "RepoNotFound")
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_HEAD = do_POST = do_PUT = reply

        def _file(self) -> None:
            fake.requests.append(f"{self.command} {self.path}")
            status, kind, content, headers = fake.file(self.path)
            self.send_response(status)
            for name, value in {"Content-Type": kind, "Content-Length": str(len(content)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def _plain(self) -> bytes:
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))

        def _chunks(self) -> bytes:
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(scratch / "cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(scratch / "token"))
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    fake.address = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield fake
    server.shutdown()
    server.server_close()
