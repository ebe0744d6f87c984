"""`python -m tests.integration.demo_reads BUNDLE MODEL IMAGE`: uses the demo, and prints which files were read where.

A program of its own: an audit hook stays for the rest of a process, and so does what Gradio leaves open.
"""

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

META = {"_type": "gradio.FileData"}


def watch(folder: Path) -> dict[str, list[str]]:
    """Files below `folder` opened for reading from now on: by threads that run an event loop, and by others."""
    found: dict[str, list[str]] = {"loop": [], "threads": []}

    def heard(event: str, arguments: tuple[Any, ...]) -> None:
        if event != "open" or not isinstance(arguments[0], (str, os.PathLike)):
            return
        path, flags = os.fspath(arguments[0]), arguments[2] or 0
        if not path.startswith(str(folder)) or flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            return
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            found["threads"].append(path)
        else:
            found["loop"].append(path)

    sys.addaudithook(heard)
    return found


def main(bundle: str, model: str, image: str) -> None:
    """Upload, classify one and many, fetch the table."""
    from fastapi.testclient import TestClient

    from igsp_serve.demo.serve import make_app
    from igsp_serve.demo.uploads import page_folder

    app, _ = make_app(Path(bundle), model=Path(model))
    found = watch(page_folder())
    with TestClient(app) as client:
        pictures = [("files", (f"{number}.png", Path(image).read_bytes())) for number in range(3)]
        names = client.post("/gradio_api/upload", files=pictures).json()
        files = [{"path": name, "meta": META} for name in names]
        events = {event["api_name"]: event["id"] for event in client.get("/config").json()["dependencies"]}
        question = [files[0], "auto", "task", "", "{}"]
        calls = {"classify": question, "on_question": question, "on_explain": question, "on_click": [files, "auto", 0]}
        for name, data in {**calls, "classify_batch": [files, "auto", 0]}.items():
            body = {"data": data, "fn_index": events[name], "session_hash": "one"}
            answer = client.post(f"/gradio_api/run/{name}", json=body)
            assert answer.status_code == 200, answer.text
        table = answer.json()["data"][1]["path"]
        assert client.get(f"/gradio_api/file={table}").status_code == 200
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
