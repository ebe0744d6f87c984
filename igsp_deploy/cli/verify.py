"""`igsp verify`: check a bundle."""

from typing import Annotated

import typer

from igsp_deploy.cli.options import Bundle, ProviderOption, check_provider

EXAMPLES = """Examples:

igsp verify bundle

igsp verify bundle --provider cpu --json"""


def verify(
    bundle: Bundle,
    provider: ProviderOption = "auto",
    json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Check that BUNDLE is whole and computes here what PyTorch computed when it was made."""
    import json as json_format

    chosen = check_provider(provider)

    from rich.console import Console

    from igsp_deploy.bundle.fetch import local_bundle
    from igsp_deploy.cli.bundle_report import print_verification
    from igsp_deploy.runtime.verify import require, verify_bundle

    report = verify_bundle(local_bundle(bundle), chosen)
    if json:
        print(json_format.dumps(report, indent=2))
    else:
        print_verification(report, Console())
    require(report)
