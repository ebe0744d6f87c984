"""Files as Gradio hands them over, before it makes sense of them: a bad one then gets our words, not its own."""

from pathlib import Path
from typing import Any

from igsp_deploy.errors import UserError

MAX_BYTES = 32 << 20
"""One image file."""


def upload_path(payload: Any) -> tuple[Path, str]:
    """File of an upload, and the name the user knows it by.

    Raises:
        UserError: there is none.
    """
    path = payload.get("path") if isinstance(payload, dict) else payload
    if not path:
        raise UserError("Choose a file first.")
    name = payload.get("orig_name") if isinstance(payload, dict) else None
    return Path(path), name or Path(path).name


def read_upload(payload: Any) -> bytes:
    """Bytes of an uploaded image.

    Raises:
        UserError: it is missing or too large.
    """
    path, name = upload_path(payload)
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise UserError(f"{name} has {size >> 20:,} MiB; at most {MAX_BYTES >> 20} are taken. Scale it down.")
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{name} is not here any more. Upload it again.") from error
