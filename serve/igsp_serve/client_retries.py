"""Retries that do what a server says, as a transport: what sends a request sends it again where that is right.

An overloaded or restarting server is taken for what it is: the wait is as long as `Retry-After` says, or ever longer
without it, until the time for all tries would be over.
"""

import asyncio
import random
import time
from email.utils import parsedate_to_datetime

import httpx2

RETRIED = frozenset({429, 502, 503})
"""Statuses that say: the same request may be answered later. 502 and 503 may come from a load balancer."""
FIRST_WAIT_S = 0.1
MOST_WAIT_S = 10.0
"""Longest wait where the server does not say how long."""
ONCE = "igsp_once"
"""Extension of a request that must not be sent again when nobody knows whether it was carried out."""
NEVER = "igsp_never"
"""Extension of a request that is sent one time, whatever comes."""


class _Attempts:
    """When to send one request again, and when to stop."""

    def __init__(self, request: httpx2.Request, retry_for_s: float) -> None:
        self._request = request
        self._end = time.monotonic() + retry_for_s
        self._wait_s = FIRST_WAIT_S

    def wait_s(self, outcome: httpx2.Response | httpx2.TransportError) -> float | None:
        """Seconds to wait before the next try; None: the outcome stands."""
        if self._request.extensions.get(NEVER):
            return None
        if isinstance(outcome, httpx2.TransportError):
            # Without a connection nothing was sent; after that only what changes nothing may be sent twice.
            unsent = isinstance(outcome, (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout))
            lost = isinstance(outcome, (httpx2.TimeoutException, httpx2.UnsupportedProtocol))
            again = unsent or not (lost or self._request.extensions.get(ONCE))
            return self._next(None) if again else None
        if outcome.status_code not in RETRIED:
            return None
        return self._next(retry_after_s(outcome.headers.get("retry-after")))

    def _next(self, asked_s: float | None) -> float | None:
        # Spread, so that those who were refused together do not come back together.
        wait = self._wait_s * random.uniform(0.5, 1.0) if asked_s is None else asked_s * random.uniform(1.0, 1.2)
        self._wait_s = min(MOST_WAIT_S, 2 * self._wait_s)
        return wait if time.monotonic() + wait <= self._end else None


class RetryingTransport(httpx2.BaseTransport):
    """Sends through another transport, again where that is right."""

    def __init__(self, inner: httpx2.BaseTransport, retry_for_s: float) -> None:
        """Wrap `inner`.

        Args:
            inner: what sends.
            retry_for_s: time in all, from the first try to the start of the last; 0 tries once.
        """
        self._inner = inner
        self._retry_for_s = retry_for_s

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """The answer to the last try.

        Raises:
            httpx2.TransportError: of the last try.
        """
        request.read()  # so that the body can be sent again
        attempts = _Attempts(request, self._retry_for_s)
        while True:
            outcome: httpx2.Response | httpx2.TransportError
            try:
                outcome = self._inner.handle_request(request)
                outcome.read()  # here, so that an answer whose server ends in the middle of it is asked for again
            except httpx2.TransportError as error:
                outcome = error
            wait = attempts.wait_s(outcome)
            if wait is None:
                if isinstance(outcome, httpx2.TransportError):
                    raise outcome
                return outcome
            if isinstance(outcome, httpx2.Response):
                outcome.close()
            time.sleep(wait)

    def close(self) -> None:
        """Close what sends."""
        self._inner.close()


class AsyncRetryingTransport(httpx2.AsyncBaseTransport):
    """`RetryingTransport` for an event loop."""

    def __init__(self, inner: httpx2.AsyncBaseTransport, retry_for_s: float) -> None:
        """Wrap `inner`; arguments as those of `RetryingTransport`."""
        self._inner = inner
        self._retry_for_s = retry_for_s

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """As `RetryingTransport.handle_request`."""
        await request.aread()
        attempts = _Attempts(request, self._retry_for_s)
        while True:
            outcome: httpx2.Response | httpx2.TransportError
            try:
                outcome = await self._inner.handle_async_request(request)
                await outcome.aread()
            except httpx2.TransportError as error:
                outcome = error
            wait = attempts.wait_s(outcome)
            if wait is None:
                if isinstance(outcome, httpx2.TransportError):
                    raise outcome
                return outcome
            if isinstance(outcome, httpx2.Response):
                await outcome.aclose()
            await asyncio.sleep(wait)

    async def aclose(self) -> None:
        """Close what sends."""
        await self._inner.aclose()


def retry_after_s(value: str | None) -> float | None:
    """Seconds of a `Retry-After` header, which holds seconds or a date; None when it is not there or not one."""
    if value is None:
        return None
    if value.strip().isdecimal():
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None
