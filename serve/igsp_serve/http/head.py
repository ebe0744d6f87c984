"""HEAD wherever there is GET, as HTTP wants it (RFC 9110, 9.3.2): routes declare GET alone."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from igsp_serve.http.route_path import is_under, route_path


class Head:
    """ASGI middleware: asks for GET and leaves the body out."""

    def __init__(self, app: ASGIApp, *, not_under: str = "/demo") -> None:
        """Wrap `app`.

        Args:
            app: what answers.
            not_under: path below which requests are passed on as they are: Gradio has streams without an end.
        """
        self._app = app
        self._not_under = not_under

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on."""
        if scope["type"] != "http" or scope["method"] != "HEAD" or is_under(route_path(scope), self._not_under):
            await self._app(scope, receive, send)
            return

        async def without_body(message: Message) -> None:
            await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

        await self._app({**scope, "method": "GET"}, receive, without_body)
