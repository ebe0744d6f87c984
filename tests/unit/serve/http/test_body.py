"""Bodies: bytes, time, packing, clients that leave."""

import asyncio
import gzip
import os
import zlib
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from igsp_serve.http.body import Body

Message = dict[str, Any]


async def ask(
    body: Body,
    messages: list[Message | float | asyncio.Event],
    *,
    headers: dict[str, str] | None = None,
    method: str = "POST",
) -> list[Message]:
    """Send messages (numbers are seconds to wait, events are waited for); what comes back."""
    scope = {
        "type": "http",
        "method": method,
        "path": "/v1/classify",
        "headers": [(k.encode(), v.encode()) for k, v in (headers or {}).items()],
    }
    waiting = list(messages)
    sent: list[Message] = []

    async def receive() -> Message:
        while waiting:
            message = waiting.pop(0)
            if isinstance(message, dict):
                return message
            if isinstance(message, asyncio.Event):
                await message.wait()
            else:
                await asyncio.sleep(message)
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Any) -> None:
        sent.append(message)

    await body(scope, receive, send)
    return sent


def part(data: bytes, more: bool = False) -> Message:
    return {"type": "http.request", "body": data, "more_body": more}


def make(app: Callable[..., Awaitable[None]] | None = None, **limits: Any) -> tuple[Body, list[bytes]]:
    """The layer before an application that keeps the bodies it gets."""
    got: list[bytes] = []

    async def echo(scope: Any, receive: Any, send: Any) -> None:
        message = await receive()
        assert message["more_body"] is False
        got.append(message["body"])
        await send({"type": "http.response.start", "status": 200, "headers": scope["headers"]})

    limits = {"max_bytes": 100, "max_buffered_bytes": 150, "timeout_s": 120.0, **limits}
    return Body(app or echo, **limits), got


def test_parts_are_put_together() -> None:
    body, got = make()
    assert asyncio.run(ask(body, [part(b"ab", True), part(b"c")]))[0]["status"] == 200
    assert got == [b"abc"]


@pytest.mark.parametrize(("encoding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_packed_bodies_are_unpacked(encoding: str, pack: Callable[[bytes], bytes]) -> None:
    body, got = make()
    packed = pack(b"hello " * 10)
    headers = {"content-encoding": encoding, "content-length": str(len(packed))}
    answer = asyncio.run(ask(body, [part(packed[:9], True), part(packed[9:])], headers=headers))
    assert got == [b"hello " * 10]
    assert dict(answer[0]["headers"]) == {b"content-length": b"60"}


@pytest.mark.parametrize(
    ("status", "messages", "headers"),
    [
        (413, [part(b"")], {"content-length": "101"}),
        (413, [part(b"x" * 60, True), part(b"x" * 60)], {}),
        (413, [part(gzip.compress(bytes(10_000_000)))], {"content-encoding": "gzip"}),
        (400, [part(gzip.compress(b"hello")[:-9])], {"content-encoding": "gzip"}),
        (400, [part(b"hello")], {"content-encoding": "gzip"}),
        (415, [part(b"hello")], {"content-encoding": "zstd"}),
        (415, [part(gzip.compress(gzip.compress(b"hello")))], {"content-encoding": "gzip, gzip"}),
        (400, [part(zlib.compress(b"hello", wbits=-15))], {"content-encoding": "deflate"}),
        (400, [part(zlib.compress(b"hello") + zlib.compress(b"hello"))], {"content-encoding": "deflate"}),
        (400, [part(gzip.compress(b"hello") + b"garbage")], {"content-encoding": "gzip"}),
        (400, [part(gzip.compress(b"hello") + bytes(5))], {"content-encoding": "gzip"}),
        (400, [part(gzip.compress(b"a") + gzip.compress(b"b")[:-1])], {"content-encoding": "gzip"}),
        (400, [part(gzip.compress(b"")[:10])], {"content-encoding": "gzip"}),
        (413, [part(gzip.compress(b"a") + gzip.compress(bytes(10_000_000)))], {"content-encoding": "gzip"}),
        (413, [part(gzip.compress(b"") * 6)], {"content-encoding": "gzip"}),
        (408, [part(b"x", True), 20.0], {}),
        (408, [part(b"x", True), 0.03, part(b"x", True), 0.03, part(b"x", True), 0.03, part(b"x")], {}),
    ],
)
def test_what_is_too_much_too_slow_or_broken_is_refused(
    status: int, messages: list[Message | float | asyncio.Event], headers: dict[str, str]
) -> None:
    # No time is short where it is not the matter: unpacking takes long on a busy machine.
    body, got = make(timeout_s=0.05 if status == 408 else 120.0)
    answer = asyncio.run(ask(body, messages, headers=headers))
    assert answer[0]["status"] == status
    assert (b"connection", b"close") in answer[0]["headers"]
    assert not got
    assert body._buffered == 0


def test_a_length_of_thousands_of_zeros_is_a_number() -> None:
    body, got = make()
    asyncio.run(ask(body, [part(b"ab")], headers={"content-length": "0" * 5000 + "2"}))
    assert got == [b"ab"]
    answer = asyncio.run(ask(body, [part(b"")], headers={"content-length": "0" * 5000 + "101"}))
    assert answer[0]["status"] == 413


def test_members_of_gzip_are_one_body_wherever_they_are_cut() -> None:
    packed = gzip.compress(b"hello ") + gzip.compress(b"") + gzip.compress(b"world")
    for size in (1, 7, len(packed)):
        body, got = make()
        parts = [part(packed[start : start + size], True) for start in range(0, len(packed), size)]
        asyncio.run(ask(body, [*parts, part(b"")], headers={"content-encoding": "x-gzip"}))
        assert got == [b"hello world"]


@pytest.mark.parametrize(
    "headers", [{"content-length": "101"}, {"content-length": "9", "content-encoding": "br"}], ids=["413", "415"]
)
@pytest.mark.parametrize("expect", ["100-continue", "100-Continue", None])
def test_a_body_that_is_refused_unseen_is_not_read_where_it_was_not_sent(
    headers: dict[str, str], expect: str | None
) -> None:
    body, _ = make()
    reads = 0

    async def main() -> None:
        scope: Any = {"type": "http", "method": "POST", "path": "/v1/classify", "headers": []}
        scope["headers"] = [(k.encode(), v.encode()) for k, v in headers.items()]
        if expect is not None:
            scope["headers"].append((b"expect", expect.encode()))

        async def receive() -> Message:
            nonlocal reads
            reads += 1
            return part(b"x")

        async def send(message: Any) -> None:
            pass

        await body(scope, receive, send)

    asyncio.run(main())
    assert reads == (1 if expect is None else 0)


def test_a_packed_body_longer_than_one_piece_is_whole() -> None:
    data = bytes(range(256)) * 9000
    body, got = make(max_bytes=10**7, max_buffered_bytes=10**7)
    asyncio.run(ask(body, [part(gzip.compress(data))], headers={"content-encoding": "gzip"}))
    assert got == [data]


def test_two_headers_of_encoding_are_two_encodings() -> None:
    body, got = make()

    async def main() -> list[Message]:
        sent: list[Message] = []
        scope = {
            "type": "http",
            "method": "POST",
            "path": "/v1/classify",
            "headers": [(b"content-encoding", b"gzip"), (b"content-encoding", b"gzip")],
        }

        async def receive() -> Message:
            return part(gzip.compress(b"hello"))

        async def send(message: Any) -> None:
            sent.append(message)

        await body(scope, receive, send)
        return sent

    assert asyncio.run(main())[0]["status"] == 415
    assert not got


@pytest.mark.parametrize(
    ("status", "first", "then"),
    [
        (400, gzip.compress(b"x"), b"garbage" * 10_000),
        (413, gzip.compress(os.urandom(500_000))[:-8], b""),
        (400, b"", gzip.compress(b"") * 3000),
        (413, gzip.compress(b"x"), gzip.compress(bytes(10**8))),
        (413, gzip.compress(b"", 0)[:10], b"\0\0\0\xff\xff" * 13_000),
    ],
    ids=["garbage behind the end", "nothing unpacked", "empty members", "bomb in a second member", "empty blocks"],
)
def test_packed_bodies_without_an_end_are_cut_off(status: int, first: bytes, then: bytes) -> None:
    """Whatever is sent on and on counts, and takes no memory beyond the limit."""
    import tracemalloc

    body, got = make(max_bytes=300_000, max_buffered_bytes=600_000)
    messages: list[Message | float | asyncio.Event] = [
        part(first, True),
        *[part(then, True) for _ in range(200)],
        part(b""),
    ]
    tracemalloc.start()
    try:
        answer = asyncio.run(ask(body, messages, headers={"content-encoding": "gzip"}))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert answer[0]["status"] == status
    assert peak < 6_000_000
    assert not got


def test_others_are_served_while_a_body_is_unpacked() -> None:
    turns = 0

    async def main() -> None:
        body, got = make(max_bytes=20 * 2**20, max_buffered_bytes=20 * 2**20)

        async def count() -> None:
            nonlocal turns
            while True:
                await asyncio.sleep(0)
                turns += not got

        counting = asyncio.create_task(count())
        await ask(body, [part(gzip.compress(bytes(16 * 2**20)))], headers={"content-encoding": "gzip"})
        counting.cancel()

    asyncio.run(main())
    assert turns >= 12


def test_many_small_parts_take_the_memory_of_their_bytes() -> None:
    import tracemalloc

    body, got = make(max_bytes=10**6, max_buffered_bytes=10**6)
    messages: list[Message | float | asyncio.Event] = [*[part(b"x", True)] * 100_000, part(b"")]
    tracemalloc.start()
    try:
        asyncio.run(ask(body, messages))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(got[0]) == 100_000
    assert peak < 2_000_000


def test_a_bomb_is_not_unpacked_beyond_the_limit() -> None:
    import tracemalloc

    bomb = gzip.compress(bytes(100_000_000))
    body, _ = make(max_bytes=1_000_000, max_buffered_bytes=2_000_000)
    tracemalloc.start()
    try:
        answer = asyncio.run(ask(body, [part(bomb)], headers={"content-encoding": "gzip"}))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert answer[0]["status"] == 413
    assert peak < 10_000_000


def test_all_bodies_together_are_bounded() -> None:
    async def main() -> None:
        body, got = make()
        go_on = asyncio.Event()
        slow = asyncio.create_task(ask(body, [part(b"x" * 90, True), go_on, part(b"y")]))
        while body._buffered < 90:
            await asyncio.sleep(0)
        assert (await ask(body, [part(b"z" * 70)]))[0]["status"] == 503
        go_on.set()
        assert (await slow)[0]["status"] == 200
        assert (await ask(body, [part(b"z" * 70)]))[0]["status"] == 200
        assert [len(b) for b in got] == [91, 70]

    asyncio.run(main())


def test_a_client_that_leaves_cancels_the_work() -> None:
    ended: list[str] = []

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        try:
            await asyncio.sleep(20)
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    body, _ = make(slow)
    assert asyncio.run(ask(body, [part(b"x"), 0.02, {"type": "http.disconnect"}])) == []
    assert ended == ["cancelled"]


def test_a_client_that_leaves_before_its_body_is_whole_reaches_nobody() -> None:
    body, got = make()
    assert asyncio.run(ask(body, [part(b"x", True), {"type": "http.disconnect"}])) == []
    assert not got


def test_a_cancellation_from_outside_goes_through() -> None:
    async def slow(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(20)

    async def main() -> None:
        body, _ = make(slow)
        task = asyncio.create_task(ask(body, [part(b"x")]))
        await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
