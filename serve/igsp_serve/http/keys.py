"""Who may ask what: API keys, checked before anything of a request's body is read.

Every path needs a key, except the few named here: a route that is added later is closed until somebody opens it.
"""

import hashlib
import hmac
import re
from collections.abc import Iterable, Sequence

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from igsp_serve.base64_text import from_base64
from igsp_serve.http.problems import problem
from igsp_serve.http.route_path import is_under, route_path

OPEN_PATHS = frozenset({"/", "/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready"})
"""Paths that need no key: probes have none, and `/` says where to look."""
ADMIN = (
    ("POST", re.compile(r"/v1/tasks/?")),
    ("DELETE", re.compile(r"/v1/tasks/.*")),
    ("POST", re.compile(r"/v1/models/?")),
    ("*", re.compile(r"/v1/drift(/.*)?")),
)
"""Method and path of what changes the model or tells of other people's requests."""
BROWSER_PATHS = ("/demo", "/docs", "/openapi.json", "/redoc")
"""Here a browser is asked for a password, which is the key; the user's name is free."""


def is_admin(method: str, path: str) -> bool:
    """The request needs an admin key."""
    return any(of in ("*", method) and pattern.fullmatch(path) for of, pattern in ADMIN)


class KeyRing:
    """The keys of a server, kept as digests."""

    def __init__(self, keys: Sequence[str], admin_keys: Sequence[str]) -> None:
        """Take the keys of users and of admins."""
        self.open = not keys
        """No key is needed but for admin calls."""
        self.has_admin = bool(admin_keys)
        self._users = [_digest(key) for key in keys]
        self._admins = [_digest(key) for key in admin_keys]

    def user(self, headers: Iterable[tuple[bytes, bytes]]) -> bool:
        """Whether headers (names in lower case) carry a user's key."""
        return _matches(_given(headers), self._users)

    def admin(self, headers: Iterable[tuple[bytes, bytes]]) -> bool:
        """Whether headers (names in lower case) carry an admin's key."""
        return _matches(_given(headers), self._admins)


class Keys:
    """ASGI middleware. Keys come as `Authorization: Bearer KEY`, as `X-API-Key: KEY` or as the password of Basic."""

    def __init__(
        self, app: ASGIApp, *, keys: Sequence[str], admin_keys: Sequence[str], also_open: Sequence[str] = ()
    ) -> None:
        """Wrap `app`.

        Args:
            app: what answers those who may ask.
            keys: for all but admin calls; none at all opens these to everybody.
            admin_keys: for everything; none at all forbids admin calls to everybody.
            also_open: more paths that need no key.
        """
        self._app = app
        self._ring = KeyRing(keys, admin_keys)
        self._open = OPEN_PATHS | set(also_open)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        refused = self._refuse(scope) if scope["type"] in ("http", "websocket") else None
        if refused is None:
            await self._app(scope, receive, send)
        else:
            await refused(scope, receive, send)

    def _refuse(self, scope: Scope) -> Response | None:
        path, method = route_path(scope), scope.get("method", "GET")
        if path in self._open:
            return None
        ring, headers = self._ring, scope["headers"]
        admin = ring.admin(headers)
        if is_admin(method, path):
            if not ring.has_admin:
                return problem(scope, 403, "This server has no admin key, so nobody may do this. See --admin-keys.")
            if admin:
                return None
            if ring.user(headers):
                return problem(scope, 403, "This needs an admin key.")
            return self._ask(scope, "This needs an admin key")
        if ring.open or admin or ring.user(headers):
            return None
        return self._ask(scope, "This needs an API key")

    def _ask(self, scope: Scope, what: str) -> Response:
        browser = any(is_under(route_path(scope), path) for path in BROWSER_PATHS)
        scheme = 'Basic realm="igsp"' if browser else "Bearer"
        detail = f"{what}: send it as `Authorization: Bearer KEY` or `X-API-Key: KEY`."
        return problem(scope, 401, detail, headers={"WWW-Authenticate": scheme})


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


def _matches(given: bytes | None, keys: Sequence[bytes]) -> bool:
    """Compare with every key, so that the time does not tell which one came close."""
    found = False
    if given is None:
        return found
    for key in keys:
        found |= hmac.compare_digest(given, key)
    return found


def _given(given: Iterable[tuple[bytes, bytes]]) -> bytes | None:
    """Digest of the key that came with a request."""
    headers = dict(given)
    if (key := headers.get(b"x-api-key")) is not None:
        return hashlib.sha256(key.strip()).digest()
    scheme, _, value = headers.get(b"authorization", b"").strip().partition(b" ")
    if scheme.lower() == b"bearer":
        return hashlib.sha256(value.strip()).digest()
    if scheme.lower() == b"basic":
        try:
            _, colon, password = from_base64(value.decode("latin-1")).partition(b":")
        except ValueError:
            return None
        return hashlib.sha256(password).digest() if colon else None
    return None
