"""`igsp push`: put a bundle that is there on the Hugging Face Hub."""

from typing import Annotated

import typer

from igsp_deploy.cli.options import Bundle

EXAMPLES = """Examples:

igsp push bundle me/shoes

igsp push bundle my-organisation/shoes --private"""


def push(
    bundle: Bundle,
    repo: Annotated[str, typer.Argument(metavar="USER/NAME", help="Model repository; made if it is not there.")],
    private: Annotated[bool, typer.Option("--private", help="Visible to you only.")] = False,
) -> None:
    """Upload BUNDLE to the Hugging Face Hub, or finish an upload that broke off, and print its address."""
    from igsp_deploy.bundle.fetch import local_bundle
    from igsp_export.hub import push as upload

    print(upload(local_bundle(bundle), repo, private=private))
