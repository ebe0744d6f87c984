"""The time of a request, on the clock of `time.monotonic`."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

from igsp_serve.failures import DeadlineExceeded

T = TypeVar("T")


@asynccontextmanager
async def until(deadline: float) -> AsyncIterator[None]:
    """Cancel what is inside at `deadline` (on the clock of `time.monotonic`) and say so."""
    try:
        async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
            yield
    except TimeoutError:
        raise DeadlineExceeded("The request's time ran out.") from None


def before(deadline: float, work: Callable[[], T]) -> Callable[[], T]:
    """`work`, unless its time has run out when a thread is free for it."""

    def run() -> T:
        if time.monotonic() >= deadline:
            raise DeadlineExceeded("The request's time ran out before its texts were embedded.")
        return work()

    return run
