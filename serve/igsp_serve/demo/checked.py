"""Gradio's page with a look at everything that comes in: the only files it gets to see are those of the page."""

import asyncio
from typing import Any

from igsp_deploy.errors import UserError
from igsp_serve.demo.uploads import find_file, page_folder

from gradio import Blocks, Error  # isort: skip

_DEPTH = 8
_KEPT = ("orig_name", "size", "mime_type")


class CheckedBlocks(Blocks):
    """`gradio.Blocks` whose events, however they are called, take no file but an upload of this server.

    Gradio copies a file that a request names into its cache before any function sees it, and fetches those that are
    addresses. All events come through `preprocess_data`, so nothing can be added to the page that forgets the check.
    """

    def __init__(self, **settings: Any) -> None:
        """As `gradio.Blocks`, with its files in the page's folder."""
        page_folder()
        super().__init__(**settings)
        # Gradio's own check of paths looks at it; only `launch` sets it, and a page in a FastAPI app is not launched.
        self.has_launched = True

    async def preprocess_data(
        self, block_fn: Any, inputs: list[Any], state: Any, explicit_call: bool = False
    ) -> list[Any]:
        """Replace every file in `inputs` by the upload it names.

        Raises:
            gradio.Error: it names something else.
        """
        if not isinstance(inputs, list) or len(inputs) < len(block_fn.inputs):
            raise Error(f"This takes {len(block_fn.inputs)} values. See the page's API.", print_exception=False)
        try:
            inputs = await asyncio.to_thread(_checked, inputs)
            for block, value in zip(block_fn.inputs, inputs, strict=False):
                _check_kind(block, value)
        except UserError as error:
            raise Error(str(error), print_exception=False) from error
        return await super().preprocess_data(block_fn, inputs, state, explicit_call)


def _checked(value: Any, depth: int = 0) -> Any:
    """Any other object than a file has no business in what the page's events take."""
    if depth > _DEPTH:
        raise UserError("The values are nested too deeply. See the page's API.")
    if isinstance(value, list):
        return [_checked(one, depth + 1) for one in value]
    if not isinstance(value, dict):
        return value
    public = value.get("path")
    if not isinstance(public, str):
        raise UserError("That is not a file that was uploaded here. Upload it first.")
    file: dict[str, Any] = {"path": str(find_file(public)), "meta": {"_type": "gradio.FileData"}}
    for name in _KEPT:
        if isinstance(value.get(name), (str, int)) and len(str(value[name])) <= 255:
            file[name] = value[name]
    return file


def _check_kind(block: Any, value: Any) -> None:
    """What takes files gets files, and what takes none gets none."""
    takes = getattr(block, "data_model", None) is not None
    parts = value if isinstance(value, list) else [value]
    if takes and value is not None and not all(isinstance(part, dict) for part in parts):
        raise UserError("That is not a file that was uploaded here. Upload it first.")
    if not takes and any(isinstance(part, dict) for part in parts):
        raise UserError("A file came where none is taken. See the page's API.")
