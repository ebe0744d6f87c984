"""Pushing a bundle, to a hub that this test runs. It speaks the requests of huggingface_hub without Xet storage."""

import base64
import hashlib
import json
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from huggingface_hub import constants

from igsp_deploy.bundle.manifest import list_files
from igsp_deploy.errors import UsageError, UserError
from igsp_deploy.runtime.engine import Engine
from igsp_export.hub import push

if TYPE_CHECKING:
    from tests.conftest import Bundled

# huggingface_hub sends files to storage in a way that its own HTTP library has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

TOKEN = "hf_write"


@dataclass
class FakeHub:
    """Repositories in memory: name -> path -> bytes."""

    address: str = ""
    repos: dict[str, dict[str, bytes]] = field(default_factory=dict)
    private: dict[str, bool] = field(default_factory=dict)
    elsewhere: set[str] = field(default_factory=set)
    objects: dict[str, bytes] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    cards: list[dict[str, Any]] = field(default_factory=list)
    broken_uploads: bool = False

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


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    """A hub on this machine, with the client's settings made as on a user's one."""
    fake = FakeHub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def reply(self) -> None:
            body = self._chunks() if "chunked" in self.headers.get("Transfer-Encoding", "") else self._plain()
            try:
                status, value = fake.answer(self.command, self.path, self.headers.get("Authorization", ""), body)
            except Exception as error:
                status, value = 418, {"error": repr(error)}
            content = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = reply

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
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    fake.address = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield fake
    server.shutdown()
    server.server_close()


def contents(folder: Path) -> dict[str, str]:
    """SHA-256 of every file."""
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}


def test_every_file_of_the_bundle_arrives_unchanged(hub: FakeHub, bundled: "Bundled", tmp_path: Path) -> None:
    assert push(bundled.bundle, "me/shoes", token=TOKEN, endpoint=hub.address) == f"{hub.address}/me/shoes"
    found = {name: hashlib.sha256(content).hexdigest() for name, content in hub.repos["me/shoes"].items()}
    assert found == contents(bundled.bundle)
    assert hub.private == {"me/shoes": False}
    assert len(hub.objects) >= 3
    for name, content in hub.repos["me/shoes"].items():
        (tmp_path / "got" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "got" / name).write_bytes(content)
    assert Engine.open(tmp_path / "got", "cpu", num_threads=1).manifest.task_names() == ["colors", "stripes"]


def test_the_model_card_says_what_the_hub_searches_by(hub: FakeHub, bundled: "Bundled") -> None:
    push(bundled.bundle, "me/shoes", token=TOKEN, endpoint=hub.address)
    card = hub.cards[-1]
    assert card["library_name"] == "igsp-deploy"
    assert card["pipeline_tag"] == "zero-shot-image-classification"
    assert card["license"]
    assert {"clip", "onnx"} <= set(card["tags"])


def test_the_model_card_names_every_file_of_the_bundle(bundled: "Bundled") -> None:
    bundle = bundled.bundle
    card = (bundle / "README.md").read_text()
    for name in list_files(bundle):
        assert name == "README.md" or f"| `{name}` |" in card
    assert not re.search(r"[{}]", card)


def test_the_address_and_the_token_of_the_environment_are_used(
    hub: FakeHub, bundled: "Bundled", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", hub.address)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert push(bundled.bundle, "me/shoes") == f"{hub.address}/me/shoes"
    assert "manifest.json" in hub.repos["me/shoes"]


def test_an_export_pushes_from_the_command_line(
    hub: FakeHub, bundled: "Bundled", igsp: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = {"HF_ENDPOINT": hub.address, "HF_TOKEN": TOKEN, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    done = igsp("export", bundled.model, tmp_path / "bundle", "--no-latency", "--push", "me/shoes", "--private")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-2:] == [f"{hub.address}/me/shoes", str(tmp_path / "bundle")]
    assert hub.private == {"me/shoes": True}
    found = {name: hashlib.sha256(content).hexdigest() for name, content in hub.repos["me/shoes"].items()}
    assert found == contents(tmp_path / "bundle")


def test_what_the_manifest_does_not_name_stays_here(hub: FakeHub, bundled: "Bundled", tmp_path: Path) -> None:
    copy = Path(shutil.copytree(bundled.bundle, tmp_path / "bundle"))
    (copy / "private photo.png").write_bytes(b"mine")
    (copy / "examples" / "notes.txt").write_bytes(b"mine")
    push(copy, "me/shoes", token=TOKEN, endpoint=hub.address)
    assert set(hub.repos["me/shoes"]) == {*list_files(bundled.bundle), "manifest.json"}


def test_a_second_push_sends_again_only_what_changed(hub: FakeHub, bundled: "Bundled") -> None:
    for _ in range(2):
        push(bundled.bundle, "me/shoes", token=TOKEN, endpoint=hub.address)
        hub.repos["me/shoes"]["theirs.txt"] = b"kept"
    uploads = [request for request in hub.requests if request.startswith("PUT")]
    assert len(uploads) == len(set(uploads)) >= 3
    assert hub.repos["me/shoes"]["theirs.txt"] == b"kept"


def test_a_private_repository_is_made_private(hub: FakeHub, bundled: "Bundled") -> None:
    push(bundled.bundle, "me/shoes", private=True, token=TOKEN, endpoint=hub.address)
    assert hub.private == {"me/shoes": True}
    push(bundled.bundle, "me/shoes", private=True, token=TOKEN, endpoint=hub.address)


def test_nothing_private_goes_to_a_public_repository(hub: FakeHub, bundled: "Bundled") -> None:
    hub.repos["me/shoes"], hub.private["me/shoes"] = {}, False
    with pytest.raises(UserError, match="is there already and public"):
        push(bundled.bundle, "me/shoes", private=True, token=TOKEN, endpoint=hub.address)
    assert not hub.repos["me/shoes"]
    assert not hub.objects


def test_a_damaged_bundle_is_not_pushed(hub: FakeHub, bundled: "Bundled", tmp_path: Path) -> None:
    copy = Path(shutil.copytree(bundled.bundle, tmp_path / "bundle"))
    with (copy / "text.fp32.onnx").open("r+b") as handle:
        handle.seek(100)
        handle.write(b"!!!!")
    with pytest.raises(UserError, match=r"text\.fp32\.onnx is damaged"):
        push(copy, "me/shoes", token=TOKEN, endpoint=hub.address)
    assert not hub.requests


@pytest.mark.parametrize(
    "repo_id",
    [
        *(
            "shoes",
            "me/",
            "/shoes",
            "me/my shoes",
            "me/a/b",
            "datasets/me/shoes",
            "me/a--b",
            "me/a..b",
            "me/.a",
            "me/a-",
        ),
        *("me/a.git", "https://huggingface.co/me/a", "me/" + "a" * 94, "", "me/ä", "me/a\n"),
    ],
)
def test_what_cannot_be_a_repository_is_refused_before_anything_is_read(tmp_path: Path, repo_id: str) -> None:
    with pytest.raises(UsageError, match=r"is USER/NAME"):
        push(tmp_path / "no bundle", repo_id)


@pytest.mark.parametrize("repo_id", ["me/shoes", "My-Org/a.b_c-1", "1/2", "me/" + "a" * 93])
def test_what_can_be_a_repository_is_accepted(hub: FakeHub, bundled: "Bundled", repo_id: str) -> None:
    assert push(bundled.bundle, repo_id, token=TOKEN, endpoint=hub.address).endswith(repo_id)


def _elsewhere(hub: FakeHub) -> None:
    hub.elsewhere.add("me/shoes")


def _broken(hub: FakeHub) -> None:
    hub.broken_uploads = True


@pytest.mark.parametrize(
    ("prepare", "repo_id", "token", "message"),
    [
        (None, "me/shoes", None, r"no token of the Hub .*hf auth login.*HF_TOKEN"),
        (None, "me/shoes", "hf_wrong", r"does not accept the token \(Invalid username or password\.\)\. Log in"),
        (
            None,
            "somebody/shoes",
            TOKEN,
            r"may not write to somebody/shoes .* Use a token with write access",
        ),
        (_elsewhere, "me/shoes", TOKEN, r"me/shoes is not a model repository .* Choose another name"),
        (
            _broken,
            "me/shoes",
            TOKEN,
            r"uploading to me/shoes at http.* failed: Bad request: storage says no.* repeat the command",
        ),
    ],
)
def test_what_the_hub_refuses_is_said_with_what_to_do(
    hub: FakeHub,
    bundled: "Bundled",
    prepare: Callable[[FakeHub], None] | None,
    repo_id: str,
    token: str | None,
    message: str,
) -> None:
    if prepare is not None:
        prepare(hub)
    with pytest.raises(UserError, match=message):
        push(bundled.bundle, repo_id, token=token, endpoint=hub.address)
    assert not hub.repos.get(repo_id)


def test_a_hub_that_cannot_be_reached_is_named(hub: FakeHub, bundled: "Bundled") -> None:
    with pytest.raises(UserError, match=r"at http://127\.0\.0\.1:9 failed: .*refused.* Check the network"):
        push(bundled.bundle, "me/shoes", token=TOKEN, endpoint="http://127.0.0.1:9")


def test_offline_mode_is_named(hub: FakeHub, bundled: "Bundled", monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set"):
        push(bundled.bundle, "me/shoes", token=TOKEN, endpoint=hub.address)
    assert not hub.requests
