"""The client against small servers that misbehave on purpose, and against the real application."""

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import httpx2
import pytest
from PIL import Image

from igsp_deploy.errors import UserError
from igsp_serve.client import AsyncClient, Client, ServerProblem, ServerUnreachable, _proxy
from igsp_serve.client_answers import read_embedded
from igsp_serve.client_retries import retry_after_s
from igsp_serve.http.app import create_app
from igsp_serve.settings import Settings

Answer = tuple[int, dict[str, str], bytes]
TASKS: Answer = (200, {}, b'{"model": {"name": "igsp", "version": "1"}, "tasks": []}')
HALF: Answer = (200, {"Content-Length": "395"}, b'{"model": ')
"""The server ended in the middle of its answer."""
BUSY: Answer = (429, {"Retry-After": "0"}, b'{"title": "Too Many Requests", "detail": "full", "instance": "abc"}')


class Fake:
    """Gives the answers of a list, one after another, over a real socket; the last for ever."""

    def __init__(self, answers: Sequence[Answer | None]) -> None:
        self.seen: list[tuple[str, str, float]] = []
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                self.rfile.read(int(self.headers.get("content-length", 0)))
                given = answers[min(len(fake.seen), len(answers) - 1)]
                fake.seen.append((self.command, self.path, time.monotonic()))
                if given is None:  # breaks off
                    self.close_connection = True
                    return
                status, headers, body = given
                self.send_response(status)
                for name, value in {"Content-Length": str(len(body)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST = do_DELETE = answer

            def log_message(self, *arguments: Any) -> None:
                """Be quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def fake() -> Iterator[Callable[..., Fake]]:
    made: list[Fake] = []

    def make(*answers: Answer | None) -> Fake:
        made.append(Fake(answers))
        return made[-1]

    yield make
    for one in made:
        one.close()


def tasks_async(url: str, **options: Any) -> Any:
    async def run() -> Any:
        async with AsyncClient(url, **options) as client:
            return await client.tasks()

    return asyncio.run(run())


def tasks_sync(url: str, **options: Any) -> Any:
    with Client(url, **options) as client:
        return client.tasks()


both = pytest.mark.parametrize("ask", [tasks_sync, tasks_async])


@both
def test_it_comes_back_when_the_server_says_so(ask: Callable[..., Any], fake: Callable[..., Fake]) -> None:
    server = fake((429, {"Retry-After": "1"}, b"{}"), BUSY, TASKS)
    assert ask(server.url) == ()
    assert len(server.seen) == 3
    assert server.seen[1][2] - server.seen[0][2] >= 1.0


@both
@pytest.mark.parametrize("status", [502, 503])
def test_a_restart_is_waited_for(ask: Callable[..., Any], fake: Callable[..., Fake], status: int) -> None:
    server = fake((status, {}, b"<html>bad gateway</html>"), None, TASKS)
    assert ask(server.url) == ()
    assert len(server.seen) == 3


@both
def test_an_answer_that_breaks_off_is_asked_for_again(ask: Callable[..., Any], fake: Callable[..., Fake]) -> None:
    server = fake(HALF, HALF, TASKS)
    assert ask(server.url) == ()
    assert len(server.seen) == 3


def test_a_change_whose_answer_breaks_off_is_not_sent_twice(fake: Callable[..., Fake]) -> None:
    server = fake(HALF, TASKS)
    with Client(server.url) as client, pytest.raises(ServerUnreachable, match="did not answer"):
        client.remove_task("a")
    assert len(server.seen) == 1


@both
def test_it_gives_up_before_its_time_is_over(ask: Callable[..., Any], fake: Callable[..., Fake]) -> None:
    server = fake((429, {"Retry-After": "3600"}, BUSY[2]))
    with pytest.raises(ServerProblem) as error:
        ask(server.url, retry_for_s=20)
    assert error.value.status == 429
    assert len(server.seen) == 1
    server = fake(BUSY)
    with pytest.raises(ServerProblem):
        ask(server.url, retry_for_s=0)
    assert len(server.seen) == 1


@both
@pytest.mark.parametrize("status", [400, 401, 403, 404, 408, 413, 422, 500, 504])
def test_other_errors_are_not_tried_again(ask: Callable[..., Any], fake: Callable[..., Fake], status: int) -> None:
    body = (
        b'{"title": "T", "detail": "top_k: too small", "instance": "id", "errors": [{"field": "top_k", "detail": "d"}]}'
    )
    server = fake((status, {"Retry-After": "0"}, body))
    with pytest.raises(ServerProblem, match="top_k: too small") as error:
        ask(server.url)
    assert len(server.seen) == 1
    found = error.value
    assert (found.status, found.title, found.request_id, found.errors) == (status, "T", "id", {"top_k": "d"})


@both
def test_nobody_there_and_somebody_else_are_said(ask: Callable[..., Any], fake: Callable[..., Fake]) -> None:
    with pytest.raises(ServerUnreachable, match="Is `igsp serve` running there"):
        ask("http://127.0.0.1:9", retry_for_s=0.3)
    with pytest.raises(ServerUnreachable, match="Check the URL"):
        ask(fake((200, {}, b"<html>welcome</html>")).url)
    with pytest.raises(ServerUnreachable, match="Check the URL"):
        ask(fake((200, {}, b'["tasks"]')).url)


def test_what_may_have_changed_something_is_not_sent_twice(fake: Callable[..., Fake]) -> None:
    server = fake(None, TASKS)
    with Client(server.url) as client, pytest.raises(ServerUnreachable):
        client.remove_task("shoes")
    assert len(server.seen) == 1


def test_names_are_quoted(fake: Callable[..., Fake]) -> None:
    server = fake((404, {}, b"{}"))
    with Client(server.url) as client, pytest.raises(ServerProblem):
        client.remove_task("../models/ä b")
    assert server.seen[0][:2] == ("DELETE", "/v1/tasks/..%2Fmodels%2F%C3%A4%20b")


def test_retry_after_is_seconds_or_a_date() -> None:
    assert retry_after_s(None) is None
    assert retry_after_s("7") == 7.0
    assert retry_after_s("soon") is None
    assert retry_after_s("-3") is None
    in_a_minute = retry_after_s(formatdate(time.time() + 60, usegmt=True))
    assert in_a_minute is not None
    assert 0 < in_a_minute < 61
    assert retry_after_s(formatdate(0, usegmt=True)) == 0.0


def test_images_come_in_three_forms_alone_or_in_a_list(bundled: Any, tmp_path: Path) -> None:
    path = bundled.images("colors")[0]
    app = create_app(bundled.bundle, Settings(provider="cpu"))

    async def run() -> None:
        await app.state.context.service.warm_up()
        transport = httpx2.ASGITransport(app)
        async with AsyncClient("http://server", transport=transport, timeout_s=120) as client:
            opened = Image.open(path)
            sources = [path, path.read_bytes(), opened, opened.convert("CMYK"), opened.convert("YCbCr")]
            answer = await client.classify(sources, top_k=2)
            first = answer.results[0]
            assert [result.labels[0].label for result in answer.results] == [first.labels[0].label] * 5
            for same in answer.results[1:3]:  # which may come in another batch, with another rounding
                assert (same.task, same.zero_shot) == (first.task, first.zero_shot)
                assert [label.label for label in same.labels] == [label.label for label in first.labels]
                assert [label.score for label in same.labels] == pytest.approx(
                    [x.score for x in first.labels], abs=1e-5
                )
                assert same.task_scores == pytest.approx(first.task_scores, rel=1e-4)
            assert len(first.labels) == 2
            assert [one.unsure for one in answer.results] == [False] * 5
            assert (await client.classify(path, min_score=1.0)).results[0].unsure
            assert (first.task, first.zero_shot) == ("colors", False)
            assert set(first.task_scores) == {"colors", "stripes"}
            for alone in (path, str(path), path.read_bytes(), opened):
                (one,) = (await client.classify(alone, top_k=2)).results
                assert [label.label for label in one.labels] == [label.label for label in first.labels]
                assert len((await client.embed_images(alone)).embeddings) == 1
            with pytest.raises(UserError, match="cannot be read"):
                await client.classify([tmp_path / "none.png"])

    asyncio.run(run())
    app.state.context.service.close()


def test_the_proxy_of_the_environment_is_used_but_where_it_is_not_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.example:3128")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    assert _proxy("http://shop.example/igsp") == "http://proxy.example:3128"
    assert _proxy("http://127.0.0.1:8000") is None
    assert _proxy("https://shop.example") is None


def test_it_starts_without_what_only_a_server_needs() -> None:
    """It shares its answers' definitions with the server, not the server's libraries."""
    program = "import sys, igsp_serve.client; print(*{name.split('.')[0] for name in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert not {"pydantic", "numpy", "onnxruntime", "fastapi", "torch"} & set(loaded)


def test_embeddings_and_their_tasks_stay_in_order() -> None:
    timings = dict.fromkeys(("queue_ms", "decode_ms", "inference_ms", "total_ms"), 0.0)
    model = {"name": "igsp", "version": "1", "new": "of a later server"}
    values = {"model": model, "embeddings": [[1.0, 0.0], [0.0, 1.0]], "task": ["colors", None], "timings": timings}
    answer = read_embedded({**values, "request_id": "r"})
    assert (answer.tasks, answer.embeddings) == (("colors", None), ((1.0, 0.0), (0.0, 1.0)))
    assert answer.model.version == "1"


@pytest.mark.parametrize(
    "answer",
    [
        (200, {"Content-Encoding": "gzip"}, b"no gzip"),
        (200, {}, b"[" * 100_000),
    ],
)
def test_an_answer_that_cannot_be_unpacked_or_read_is_not_of_this_server(
    fake: Callable[..., Fake], answer: Answer
) -> None:
    with Client(fake(answer).url, retry_for_s=0) as client, pytest.raises(ServerUnreachable):
        client.tasks()


def test_errors_of_another_form_are_those_of_a_proxy(fake: Callable[..., Fake]) -> None:
    for errors in (b'["a"]', b'"a"', b'{"a": 1}', b'[{"title": "b"}]'):
        answer: Answer = (422, {}, b'{"detail": "no", "errors": %s}' % errors)
        with Client(fake(answer).url, retry_for_s=0) as client, pytest.raises(ServerProblem, match="no"):
            client.tasks()


def test_a_key_may_hold_any_letter_and_is_one_line(fake: Callable[..., Fake]) -> None:
    with Client(fake(TASKS).url, key="schl\u00fcssel") as client:
        assert client.tasks() == ()
    for key in ("secret\n", "sec\r\nret", " ", ""):
        with pytest.raises(UserError, match="one line of text") as error:
            Client("http://127.0.0.1:1", key=key)
        assert "sec" not in str(error.value)


@pytest.mark.parametrize("url", ["http://[::1", "http://host:port", "http://a\nb", "http://" + 70 * "a" + ".org"])
@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_what_is_no_url_is_refused_with_an_example(kind: Any, url: str) -> None:
    with pytest.raises(UserError, match=r"is no URL of a server .* Example: http://127\.0\.0\.1:8000"):
        kind(url)
