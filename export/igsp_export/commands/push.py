"""`igsp push`: put a bundle that is there on the Hugging Face Hub."""

from pathlib import Path
from typing import Annotated

import typer

EXAMPLES = """Examples:

igsp push bundle me/shoes

igsp push bundle my-organisation/shoes --private"""


def push(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Bundle folder.")],
    repo: Annotated[str, typer.Argument(metavar="USER/NAME", help="Model repository; made if it is not there.")],
    private: Annotated[bool, typer.Option("--private", help="Visible to you only.")] = False,
) -> None:
    """Upload BUNDLE to the Hugging Face Hub, or finish an upload that broke off, and print its address."""
    from igsp_export.hub import push as upload

    print(upload(bundle, repo, private=private))
