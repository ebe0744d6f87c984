"""A stranger names files of the server in place of uploads: every function of the page refuses, on every way to it."""

import contextlib
import json
import os
import shutil
import socketserver
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

from tests.browser.site import running_demo
from tests.integration.demo_calls import Demo, Event
from tests.load.process import serving

if TYPE_CHECKING:
    from tests.conftest import Bundled

SECRET = "root:the-secret-of-the-house"
META = {"_type": "gradio.FileData"}


@dataclass(frozen=True, kw_only=True)
class Place:
    """A running demo and the disk it must not tell of.

    Attributes:
        demo: it.
        files: folder below which it keeps its files.
        root: folder of the server's own files.
        alive: whether the rest of the server answers.
    """

    demo: Demo
    files: Path
    root: Path
    alive: Callable[[], bool]


@pytest.fixture(scope="module", params=["demo", "serve"])
def place(
    request: pytest.FixtureRequest, bundled: "Bundled", tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Place]:
    root = tmp_path_factory.mktemp("strangers")
    files = root / "files"
    files.mkdir()
    if request.param == "demo":
        shutil.copytree(bundled.bundle, root / "bundle")
        shutil.copytree(bundled.model, root / "model")
        arguments = ["demo", root / "bundle", "--model", root / "model", "--teach", "--port", 0]
        with running_demo(arguments, files=files) as url:
            demo = Demo(url)
            yield Place(demo=demo, files=files, root=root, alive=lambda: httpx2.get(url, timeout=60).status_code == 200)
            demo.close()
        return
    with serving(bundled.bundle, root / "server", "--demo", environment={"GRADIO_TEMP_DIR": str(files)}) as server:
        demo = Demo(f"{server.url}/demo/")
        yield Place(
            demo=demo,
            files=files,
            root=root,
            alive=lambda: server.status("/health/ready") == 200,
        )
        demo.close()


class _Hits(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        self.server.hits.append(self.client_address)  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def elsewhere() -> "Iterator[socketserver.ThreadingTCPServer]":
    """Another service of the machine, which counts who comes."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Hits) as server:
        server.hits = []  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture(scope="module")
def wanted(place: Place, bundled: "Bundled", elsewhere: "socketserver.ThreadingTCPServer") -> dict[str, Any]:
    """What a stranger tries, each in place of an upload."""
    disk = place.root / "disk"
    disk.mkdir()
    (disk / "secret.txt").write_text(SECRET)
    (disk / "secret.txt").chmod(0o600)
    (disk / "drawing.svg").write_text(f"<svg>{SECRET}</svg>")
    (disk / "link.png").symlink_to(bundled.images("colors")[0])
    os.mkfifo(disk / "pipe.png")
    with zipfile.ZipFile(disk / "lesson.zip", "w") as archive:
        for path in bundled.images("colors"):
            archive.write(path, f"{path.parent.name}/{path.name}")
    own = place.demo.upload("own.png", bundled.images("colors")[0].read_bytes())
    (folder,) = place.files.glob("igsp-demo-*")
    real = folder / own.partition("/")[2]
    (real.parent / "link.png").symlink_to(disk / "secret.txt")
    os.mkfifo(real.parent / "pipe.png")
    beside = own.rpartition("/")[0]
    host = f"127.0.0.1:{elsewhere.server_address[1]}"
    paths = {
        "text": disk / "secret.txt",
        "svg": disk / "drawing.svg",
        "image": bundled.images("colors")[0],
        "zip": disk / "lesson.zip",
        "link": disk / "link.png",
        "pipe": disk / "pipe.png",
        "folder": disk,
        "device": "/dev/zero",
        "random": "/dev/urandom",
        "process": "/proc/self/environ",
        "file scheme": f"file://{disk}/secret.txt",
        "address": f"http://{host}/x.png",
        "address of https": f"https://{host}/x.png",
        "data": "data:image/png;base64," + "A" * 100_000,
        "own by its place": real,
        "link beside": f"{beside}/link.png",
        "pipe beside": f"{beside}/pipe.png",
        "folder beside": beside,
        "up": f"{beside}/../../../disk/secret.txt",
        "up, whole": f"files/{'0' * 64}/..",
        "proxy": f"/proxy=http://{host}/x.png",
        "missing": f"files/{'0' * 64}/x.png",
        "empty": "",
        "zero byte": f"{beside}/own.png\0.txt",
    }
    tries: dict[str, Any] = {name: {"path": str(path), "meta": META} for name, path in paths.items()}
    tries["no path but an address"] = {"path": None, "url": f"http://{host}/x.png", "meta": META}
    tries["no path but data"] = {"url": "data:image/png;base64,AAAA", "meta": META}
    tries["a stream"] = {"path": str(disk / "secret.txt"), "is_stream": True, "meta": META}
    tries["no meta"] = {"path": str(disk / "secret.txt")}
    tries["a text"] = str(disk / "secret.txt")
    tries["an object"] = {"name": str(disk / "secret.txt"), "data": None, "is_file": True}
    tries["nested"] = [[{"path": str(disk / "secret.txt"), "meta": META}]]
    tries["in a gallery"] = [{"image": {"path": str(disk / "secret.txt"), "meta": META}, "caption": None}]
    tries["very deep"] = json.loads("[" * 200 + "]" * 200)
    tries["several"] = [{"path": own, "meta": META}, {"path": str(disk / "secret.txt"), "meta": META}]
    return tries


def filled(event: Event, at: int, value: Any) -> list[Any]:
    """An event's inputs with one of them replaced; one more where it has none."""
    data = [None if kind == "state" else given for kind, given in zip(event.takes, event.values, strict=True)]
    return [*data[:at], value, *data[at + 1 :]]


def check_nothing_came(place: Place, elsewhere: "socketserver.ThreadingTCPServer") -> None:
    """No answer tells of the disk, nothing was copied, nobody was called, and the server goes on."""
    for text in place.demo.seen:
        for told in (SECRET, str(place.root), "/dev/zero", "Traceback", "site-packages"):
            assert told not in text, text[:500]
    copied = [path for path in place.files.rglob("*") if path.is_file() and not path.is_symlink()]
    assert not [path for path in copied if SECRET.encode() in path.read_bytes()]
    assert elsewhere.hits == []  # type: ignore[attr-defined]
    assert place.alive()


def refused(message: dict[str, Any]) -> bool:
    return message.get("success") is False and bool(message.get("output", {}).get("error"))


def test_every_function_refuses_what_was_not_uploaded(
    place: Place, wanted: dict[str, Any], elsewhere: "socketserver.ThreadingTCPServer"
) -> None:
    events = place.demo.events()
    takers = [event for event in events if event.files()]
    assert len(takers) >= 3, "the page has functions that take files"
    for event in events:
        # Every input of every function, whether it takes files or not.
        for at in range(max(1, len(event.takes))):
            for name in ("text", "device", "address"):
                assert refused(place.demo.join(event, filled(event, at, wanted[name]))), (event, at, name)
    for event in takers:
        for at in event.files():
            for name, value in wanted.items():
                assert refused(place.demo.join(event, filled(event, at, value))), (event.name, at, name)
                assert refused(place.demo.join(event, filled(event, at, [value]))), (event.name, at, name)
    check_nothing_came(place, elsewhere)


def test_every_way_to_a_function_refuses_them(
    place: Place, wanted: dict[str, Any], elsewhere: "socketserver.ThreadingTCPServer"
) -> None:
    for event in place.demo.events():
        at = (event.files() or [0])[0]
        for name in ("text", "image", "device", "link", "address", "own by its place"):
            data = filled(event, at, wanted[name])
            for verb in ("run", "api"):
                answer = place.demo.run(event, data, verb)
                assert answer.status_code >= 400, (event.name, verb, name, answer.text)
            assert "event: error" in place.demo.call(event, data), (event.name, name)
    described = place.demo.get("gradio_api/info").json()["named_endpoints"]
    assert {"/classify", "/classify_batch"} <= set(described)
    for title, about in described.items():
        names = [parameter["parameter_name"] for parameter in about["parameters"]]
        for chosen in [*([name] for name in names), names]:
            body = dict.fromkeys(chosen, wanted["text"])
            begun = place.demo.post(f"gradio_api/call/v2{title}", json=body)
            assert begun.status_code == 200 or (begun.status_code == 400 and names)
            if begun.status_code == 200 and names:
                told = place.demo.get(f"gradio_api/call/v2{title}/{begun.json()['event_id']}").text
                assert "event: error" in told, (title, chosen)
    check_nothing_came(place, elsewhere)


def test_files_are_given_out_by_the_name_of_an_upload_alone(
    place: Place, wanted: dict[str, Any], elsewhere: "socketserver.ThreadingTCPServer"
) -> None:
    for name, value in wanted.items():
        if isinstance(value, dict) and isinstance(value.get("path"), str):
            for way in ("file=", "file/"):
                with contextlib.suppress(httpx2.InvalidURL):
                    answer = place.demo.get(f"gradio_api/{way}{value['path'][:1000]}")
                    assert answer.status_code in (403, 404), (name, way)
    drawing = place.demo.upload("drawing.svg", b"<svg><script>alert(1)</script></svg>")
    given = place.demo.get(f"gradio_api/file={drawing}")
    assert given.status_code == 200
    assert given.headers["content-disposition"].startswith("attachment")
    assert given.headers["content-type"] == "application/octet-stream"
    check_nothing_came(place, elsewhere)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "proxy=http://127.0.0.1/x"),
        ("POST", "component_server"),
        ("POST", "stream/abc"),
        ("POST", "stream/abc/close"),
        ("POST", "process_recording"),
        ("POST", "vibe-edit"),
        ("GET", "vibe-code"),
        ("GET", "deep_link?session_hash=x"),
        ("GET", "dev/reload"),
        ("GET", "runs"),
        ("GET", "custom_component/0/client/component/index.js"),
        ("GET", "../monitoring"),
        ("GET", "../monitoring/summary"),
        ("POST", "../login"),
        ("PUT", "upload"),
    ],
)
def test_what_the_page_does_not_use_is_not_there(place: Place, method: str, path: str) -> None:
    answer = place.demo.http.request(method, f"gradio_api/{path}", json={} if method != "GET" else None)
    assert answer.status_code == 404
    assert answer.json() == {"detail": "There is nothing here."}


def test_an_upload_is_classified_and_its_table_fetched(place: Place, bundled: "Bundled") -> None:
    image = bundled.images("stripes")[0]
    name = place.demo.upload("my photo, ä.png", image.read_bytes())
    assert name.startswith("files/")
    assert place.demo.get(f"gradio_api/file={name}").content == image.read_bytes()
    events = {event.name: event for event in place.demo.events()}
    file = {"path": name, "orig_name": "my photo, ä.png", "url": "http://elsewhere.invalid/x.png", "meta": META}
    found = place.demo.join(events["classify"], filled(events["classify"], 0, file))
    assert found["success"], found
    assert found["output"]["data"][0]["task"] == "stripes"
    rows = place.demo.join(events["classify_batch"], filled(events["classify_batch"], 0, [file]))
    assert rows["output"]["data"][0][0]["file"] == "my photo, ä.png"
    table = rows["output"]["data"][1]["path"]
    assert table.startswith("files/")
    assert place.demo.get(f"gradio_api/file={table}").text.splitlines()[1].startswith('"my photo, ä.png",')
    assert str(place.root) not in "".join(place.demo.seen)


def test_an_uploads_name_is_no_path(place: Place) -> None:
    """A name with a path in it lies among the page's files under its last part."""
    name = place.demo.upload("../../../etc/x.png", b"x")
    assert name.rpartition("/")[2] == "x.png"
    (found,) = [path for path in place.files.rglob("x.png") if path.read_bytes() == b"x"]
    assert found.parent.parent.parent == place.files
    refused = place.demo.post("gradio_api/upload", files={"files": ("..", b"x")})
    assert refused.status_code == 400


def test_no_file_is_read_on_the_event_loop(bundled: "Bundled", tmp_path: Path) -> None:
    """A slow disk, or a file without an end, must not keep the server from answering."""
    command = [sys.executable, "-m", "tests.integration.demo_reads", bundled.bundle, bundled.model]
    done = subprocess.run(
        [*map(str, command), str(bundled.images("colors")[0])],
        env={**os.environ, "GRADIO_TEMP_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["loop"] == []
    assert len(found["threads"]) >= 8
