"""Many clients in one process of their own: each sends a request, waits for its answer, sends the next.

    python -m tests.load.clients --url http://127.0.0.1:8000 --clients 32 --seconds 10 --images FOLDER [--tasks a,b]

Plain asyncio and bytes made beforehand, so that the clients take little of the machine they share with the server.
Prints one line of JSON.
"""

import argparse
import asyncio
import collections
import itertools
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit


@dataclass(kw_only=True)
class Seen:
    """What the clients saw.

    Attributes:
        statuses: HTTP status -> answers; 0: no connection, or it broke.
        latencies_s: of the answers with 200, after the warm-up.
        retry_after: answers with 429 that carried it.
    """

    statuses: "collections.Counter[int]" = field(default_factory=collections.Counter)
    latencies_s: list[float] = field(default_factory=list)
    retry_after: int = 0


def classify_request(host: str, image: bytes, task: str, timeout_s: float | None = None, copies: int = 1) -> bytes:
    """`POST /v1/classify` with one file, or that file several times, whole."""
    edge = "igsp-load-edge"
    fields = {"task": task} | ({} if timeout_s is None else {"timeout_s": str(timeout_s)})
    parts = [
        f'--{edge}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in fields.items()
    ]
    file = f'--{edge}\r\nContent-Disposition: form-data; name="images"; filename="i"\r\n\r\n'.encode()
    body = "".join(parts).encode() + copies * (file + image + b"\r\n") + f"--{edge}--\r\n".encode()
    head = f"POST /v1/classify HTTP/1.1\r\nhost: {host}\r\ncontent-type: multipart/form-data; boundary={edge}\r\n"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


async def one_client(
    host: str, port: int, requests: Iterator[bytes], seen: Seen, *, warm: float, end: float, most: int
) -> None:
    """Ask until `end`, at most `most` times; what starts before `warm` is not counted."""
    reader: asyncio.StreamReader | None = None
    writer: asyncio.StreamWriter | None = None
    for data in itertools.islice(requests, most):
        start = time.monotonic()
        if start >= end:
            break
        try:
            if writer is None or reader is None:
                reader, writer = await asyncio.open_connection(host, port)
            writer.write(data)
            status, headers = await read_answer(reader)
        except (OSError, asyncio.IncompleteReadError, ValueError):
            status, headers = 0, {}
        now = time.monotonic()
        if start >= warm and now <= end:
            seen.statuses[status] += 1
            if status == 200:
                seen.latencies_s.append(now - start)
            seen.retry_after += status == 429 and headers.get("retry-after", "").isdigit()
        if writer is not None and (status == 0 or headers.get("connection") == "close"):
            writer.close()
            reader = writer = None
            await asyncio.sleep(0.01)
    if writer is not None:
        writer.close()


async def read_answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    """Status and headers; the body is read and dropped.

    Raises:
        IncompleteReadError: the connection broke.
    """
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
    await reader.readexactly(int(headers.get("content-length", "0")))
    return int(head[0].split(" ")[1]), headers


async def run_clients(
    url: str,
    images: Sequence[bytes],
    *,
    clients: int,
    seconds: float,
    warm_s: float = 0.0,
    tasks: Sequence[str] = ("auto",),
    timeout_s: float | None = None,
    copies: int = 1,
    most: int = 10**9,
) -> Seen:
    """Run `clients` of them for `seconds` after `warm_s`; each begins with another image and task."""
    host, port = urlsplit(url).hostname or "", urlsplit(url).port or 80
    made = [classify_request(host, image, task, timeout_s, copies) for image in images for task in tasks]
    seen = Seen()
    warm = time.monotonic() + warm_s
    await asyncio.gather(
        *(
            one_client(
                host,
                port,
                itertools.cycle(made[k % len(made) :] + made[: k % len(made)]),
                seen,
                warm=warm,
                end=warm + seconds,
                most=most,
            )
            for k in range(clients)
        )
    )
    return seen


def percentile_ms(latencies_s: Sequence[float], share: float) -> float:
    """Of the latencies, in ms."""
    ordered = sorted(latencies_s)
    return 1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m tests.load.clients", description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--images", type=Path, required=True, help="folder of files to send")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--warm-s", type=float, default=0.0, help="time before anything is counted")
    parser.add_argument("--tasks", default="auto", help="names, separated by commas; each request has one")
    parser.add_argument("--timeout-s", type=float, help="what a request asks for")
    parser.add_argument("--copies", type=int, default=1, help="of its image in a request")
    parser.add_argument("--most", type=int, default=10**9, help="requests of one client")
    given = parser.parse_args(arguments)
    images = [path.read_bytes() for path in sorted(given.images.iterdir())]
    _allow_many_files()
    start = time.monotonic()
    seen = asyncio.run(
        run_clients(
            given.url,
            images,
            clients=given.clients,
            seconds=given.seconds,
            warm_s=given.warm_s,
            tasks=given.tasks.split(","),
            timeout_s=given.timeout_s,
            copies=given.copies,
            most=given.most,
        )
    )
    answered: dict[str, Any] = {
        "statuses": {str(status): count for status, count in sorted(seen.statuses.items())},
        "rate": len(seen.latencies_s) / given.seconds,
        "p50_ms": percentile_ms(seen.latencies_s, 0.5),
        "p99_ms": percentile_ms(seen.latencies_s, 0.99),
        "retry_after": seen.retry_after,
        "wall_s": time.monotonic() - start,
    }
    print(json.dumps(answered))


def _allow_many_files() -> None:
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


if __name__ == "__main__":
    main()
