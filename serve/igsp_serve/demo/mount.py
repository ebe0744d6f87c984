"""Putting the page into a web application, closed to every other host."""

from pathlib import Path
from typing import Any

from igsp_serve.demo.theme import make_theme

from gradio import Blocks, mount_gradio_app  # isort: skip

CSS = Path(__file__).with_name("demo.css")
MAX_UPLOAD = "512mb"
"""One file; archives are looked at before they are unpacked."""

POLICY = "; ".join(
    (
        "default-src 'self'",
        # Gradio's page has scripts in it, and compiles its templates.
        "script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "media-src 'self' data: blob:",
        "font-src 'self' data:",
        "connect-src 'self' data: blob:",
        "worker-src 'self' blob:",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
    )
)
"""Content-Security-Policy: a browser that obeys it asks no other host for anything."""


def mount_demo(app: Any, demo: Blocks, path: str = "/demo") -> Any:
    """Mount the page from `build_demo` at `path` of a FastAPI app; returns the app.

    Fonts, scripts and styles come from this server alone, and the browser is told to load nothing from elsewhere.
    """
    mounted = mount_gradio_app(
        app,
        demo,
        path=path,
        theme=make_theme(),
        css=CSS.read_text(encoding="utf-8"),
        footer_links=["api"],
        run_history=False,
        ssr_mode=False,
        mcp_server=False,
        enable_monitoring=False,
        pwa=False,
        show_error=True,
        max_file_size=MAX_UPLOAD,
    )
    mounted.add_middleware(_Closed, path=path)
    return mounted


class _Closed:
    """ASGI middleware: adds the policy to every answer under a path."""

    def __init__(self, app: Any, path: str) -> None:
        self.app = app
        self.path = path.rstrip("/")

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or not _is_under(scope["path"], self.path):
            await self.app(scope, receive, send)
            return

        async def closed(message: Any) -> None:
            if message["type"] == "http.response.start":
                extra = [(b"content-security-policy", POLICY.encode()), (b"referrer-policy", b"same-origin")]
                message = {**message, "headers": [*message.get("headers", []), *extra]}
            await send(message)

        await self.app(scope, receive, closed)


def _is_under(path: str, root: str) -> bool:
    return path == root or path.startswith(f"{root}/")
