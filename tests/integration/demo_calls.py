"""The demo's HTTP interface as a stranger's script uses it: no client library, no page."""

import json
import uuid
from dataclasses import dataclass, field
from typing import Any

import httpx2

PATIENCE_S = 150.0
FILES = frozenset({"file", "image", "gallery", "uploadbutton", "multimodaltextbox", "imageeditor", "video", "audio"})
"""Kinds of components that take files."""


@dataclass(frozen=True, kw_only=True)
class Event:
    """One function of the page.

    Attributes:
        number: index by which the page calls it.
        name: name by which programs call it.
        takes: kind of each input.
        values: what the page has in them at the start.
    """

    number: int
    name: str
    takes: list[str]
    values: list[Any]

    def files(self) -> list[int]:
        """Positions of inputs that take files."""
        return [place for place, kind in enumerate(self.takes) if kind in FILES]


@dataclass
class Demo:
    """A running demo.

    Attributes:
        url: of the page, with a slash at its end.
        seen: every answer so far, as text.
    """

    url: str
    seen: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Open a connection."""
        self.http = httpx2.Client(base_url=self.url, timeout=PATIENCE_S, trust_env=False)

    def close(self) -> None:
        """Close the connection."""
        self.http.close()

    def get(self, path: str) -> httpx2.Response:
        """GET a path below the page."""
        return self._heard(self.http.get(path.lstrip("/")))

    def post(self, path: str, **what: Any) -> httpx2.Response:
        """POST to a path below the page."""
        return self._heard(self.http.post(path.lstrip("/"), **what))

    def events(self) -> list[Event]:
        """All functions of the page that run here."""
        config = self.get("config").json()
        parts = {part["id"]: part for part in config["components"]}
        return [
            Event(
                number=event["id"],
                name=event["api_name"],
                takes=[parts[part]["type"] for part in event["inputs"]],
                values=[parts[part]["props"].get("value") for part in event["inputs"]],
            )
            for event in config["dependencies"]
            if event["backend_fn"]
        ]

    def upload(self, name: str, content: bytes) -> str:
        """Upload a file; returns what it is called here."""
        answer = self.post("gradio_api/upload", files={"files": (name, content)})
        assert answer.status_code == 200, answer.text
        return str(answer.json()[0])

    def join(self, event: Event, data: list[Any]) -> dict[str, Any]:
        """As the page calls a function: through the queue. Returns the last message."""
        session = uuid.uuid4().hex
        body = {"data": data, "fn_index": event.number, "session_hash": session}
        joined = self.post("gradio_api/queue/join", json=body)
        if joined.status_code != 200:
            return {"success": False, "output": {"error": joined.text}}
        last: dict[str, Any] = {}
        with self.http.stream("GET", "gradio_api/queue/data", params={"session_hash": session}) as stream:
            for line in stream.iter_lines():
                self.seen.append(line)
                if line.startswith("data:"):
                    message = json.loads(line[5:])
                    if message["msg"] == "process_completed":
                        last = message
                    if message["msg"] in ("process_completed", "close_stream", "unexpected_error"):
                        break
        return last

    def call(self, event: Event, data: list[Any], version: str = "") -> str:
        """As a program calls it: POST, then read what comes. Returns all of it."""
        body: Any = {"data": data}
        begun = self.post(f"gradio_api/call/{version}{event.name}", json=body)
        if begun.status_code != 200:
            return f"event: error {begun.text}"
        return self.get(f"gradio_api/call/{version}{event.name}/{begun.json()['event_id']}").text

    def run(self, event: Event, data: list[Any], verb: str = "run") -> httpx2.Response:
        """As old programs call it: one POST."""
        body = {"data": data, "session_hash": uuid.uuid4().hex, "fn_index": event.number}
        return self.post(f"gradio_api/{verb}/{event.name}", json=body)

    def _heard(self, answer: httpx2.Response) -> httpx2.Response:
        self.seen.append(answer.text)
        return answer
