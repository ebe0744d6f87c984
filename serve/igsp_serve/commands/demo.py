"""`igsp demo`: a page that classifies, shows what was learned and teaches new tasks."""

from pathlib import Path
from typing import Annotated

import typer

from igsp_deploy.cli.options import Bundle, ProviderOption, check_provider

EXAMPLES = """Examples:

igsp demo bundle

igsp demo bundle --model model --teach

igsp demo bundle --host 0.0.0.0 --port 8000 --evaluation accuracies.json

igsp demo bundle --write-space space"""


def demo(
    bundle: Bundle,
    model: Annotated[
        Path | None, typer.Option(metavar="MODEL", help="Model folder of the bundle: shows its example images.")
    ] = None,
    teach: Annotated[
        bool, typer.Option("--teach", help="Let whoever opens the page teach new tasks; they are added to MODEL.")
    ] = False,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 lets other machines in.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 7860,
    evaluation: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Output of `igsp evaluate MODEL --json` to show; default BUNDLE.evaluation.json."
        ),
    ] = None,
    examples: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Images to try out; default test images of MODEL's tasks.")
    ] = None,
    provider: ProviderOption = "auto",
    write_space: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Write a Hugging Face Space with this bundle instead of serving it."),
    ] = None,
) -> None:
    """Serve a page on BUNDLE for people: classify images, see what was learned, teach it a task.

    The page needs no other host: fonts and scripts come from here. It has no password; keep it on your own machine, or
    put it behind a proxy that asks for one.
    """
    from igsp_deploy.bundle.fetch import local_bundle
    from igsp_deploy.errors import UserError

    chosen, bundle = check_provider(provider), local_bundle(bundle)
    if evaluation is not None and not evaluation.is_file():
        raise UserError(f"{evaluation} does not exist. Make it with: igsp evaluate MODEL --json > {evaluation}")

    if write_space is not None:
        from igsp_serve.demo.space import write_space as write

        write(bundle, write_space, evaluation=evaluation, examples=examples)
        print(write_space)
        return

    from igsp_serve.demo.serve import run_demo

    run_demo(
        bundle,
        host=host,
        port=port,
        model=model,
        teach=teach,
        evaluation=evaluation,
        examples=examples,
        provider=chosen,
    )
