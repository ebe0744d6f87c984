"""Putting the page into a web application, closed to every other host."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from igsp_serve.demo.gate import Gate
from igsp_serve.demo.theme import make_theme
from igsp_serve.demo.uploads import Limits, Store

from gradio import Blocks, mount_gradio_app  # isort: skip

CSS = Path(__file__).with_name("demo.css")
SWEEP_S = 60.0
"""Time between two looks for files that are too old."""


def mount_demo(app: Any, demo: Blocks, path: str = "/demo", limits: Limits | None = None) -> Any:
    """Mount the page from `build_demo` at `path` of a FastAPI app; returns the app.

    Fonts, scripts and styles come from this server alone, and the browser is told to load nothing from elsewhere.

    Args:
        app: the application.
        demo: the page.
        path: where.
        limits: of uploads.
    """
    store = Store(limits or Limits())
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
        # What a visitor should read is a gradio.Error, which is shown always; others may hold what they should not.
        show_error=False,
        max_file_size=store.limits.body_bytes,
    )
    mount = mounted.router.routes[-1]
    mount.app = Gate(mount.app, store)
    _sweep_while_it_serves(mounted.router, store)
    return mounted


def _sweep_while_it_serves(router: Any, store: Store) -> None:
    before = router.lifespan_context

    async def sweep() -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            await asyncio.to_thread(store.sweep)

    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[Any]:
        async with before(app) as state:
            task = asyncio.create_task(sweep())
            try:
                yield state
            finally:
                task.cancel()

    router.lifespan_context = lifespan
