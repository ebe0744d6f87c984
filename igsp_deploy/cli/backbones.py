"""`igsp backbones`: which CLIPs there are, and which can be learned with."""

from typing import Annotated

import typer

EXAMPLES = """Examples:

igsp backbones

igsp backbones ViT-B-16

igsp backbones --all --json"""


def backbones(
    part: Annotated[
        str | None, typer.Argument(metavar="[PART]", help="Look at open_clip's architectures named like this.")
    ] = None,
    all_: Annotated[bool, typer.Option("--all", help="Look at all architectures; a minute.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """List the CLIPs to start from; with PART or --all what open_clip offers: accepted, or why not.

    Nothing is downloaded: architectures are built without their weights.
    """
    import dataclasses
    import json as json_format

    from rich.console import Console
    from rich.table import Table

    from igsp_deploy.errors import UserError
    from igsp_deploy.model.catalogue import architectures, short_names

    console = Console()
    if part is None and not all_:
        if json:
            keys = ("name", "backbone", "pretrained", "what_for")
            print(json_format.dumps([dict(zip(keys, row, strict=True)) for row in short_names()], indent=2))
            return
        table = Table(title="To start from: igsp train MODEL --backbone NAME", title_justify="left")
        for title in ("name", "architecture", "tag", "what for"):
            table.add_column(title, overflow="fold")
        table.add_row("nano", "-", "-", "in the package, no download: to try things, and for tests")
        for row in short_names():
            table.add_row(*row)
        (console if console.is_terminal else Console(width=120)).print(table)
        print("`igsp backbones PART` looks among all of open_clip's; hf-hub:ORG/NAME and local-dir:PATH are taken too.")
        return
    found = list(architectures(part or ""))
    if not found:
        raise UserError(f"open_clip has no architecture with {part!r} in its name. `igsp backbones --all` lists all.")
    if json:
        print(json_format.dumps([dataclasses.asdict(one) for one in found], indent=2))
        return
    table = Table(title="Architectures of open_clip", title_justify="left")
    for title in ("architecture", "pixels", "parameters", "context", "blocks", "accepted", "tags"):
        numbers = title in ("pixels", "parameters", "context")
        table.add_column(title, overflow="fold", justify="right" if numbers else "left", no_wrap=numbers)
    for one in found:
        size = "-" if one.parameters is None else f"{one.parameters / 1e6:,.0f}M"
        verdict = "yes" if one.problem is None else f"no: {one.problem}"
        sizes = (str(one.image_size or "-"), size, str(one.context), one.places or "-")
        table.add_row(one.name, *sizes, verdict, ", ".join(one.tags))
    (console if console.is_terminal else Console(width=160)).print(table)
    accepted = [one for one in found if one.problem is None]
    tags, of = sum(len(one.tags) for one in accepted), sum(len(one.tags) for one in found)
    print(f"{len(accepted)} of {len(found)} architectures are accepted, with {tags} of {of} tags.")
