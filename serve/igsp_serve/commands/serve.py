"""`igsp serve`: a bundle over HTTP. Torch is not needed."""

import dataclasses
import inspect
from pathlib import Path
from typing import Annotated, Any

import typer

from igsp_deploy.cli.options import BUNDLE_HELP

# A dataclass and nothing heavy: the options are made from it, so that each is declared once.
from igsp_serve.settings import Settings, flag, kind, shown_default

EXAMPLES = """Examples:

igsp serve bundle

igsp serve hf:me/shoes@v2

igsp serve bundle --host 0.0.0.0 --port 80 --api-key-file keys.txt --max-batch 64

igsp serve bundle --config serve.yaml

IGSP_API_KEYS=secret igsp serve bundle --demo"""


def serve(bundle: Path, **options: Any) -> None:
    """Serve BUNDLE over HTTP and gRPC: /v1/classify, the Open Inference Protocol (/v2, --grpc-port), /metrics, /docs.

    Each option may also come from the environment as IGSP_OPTION, for example IGSP_MAX_BATCH, or from a YAML file.
    """
    from igsp_deploy.bundle.fetch import local_bundle
    from igsp_serve.http.server import serve as run

    given = {name: value for name, value in options.items() if value not in (None, [])}
    run(local_bundle(bundle), Settings.read(given))


def _parameters() -> list[inspect.Parameter]:
    """BUNDLE, and an option for each field of `Settings`. Their texts are read by `Settings`, all errors at once."""
    bundle = typer.Argument(metavar="BUNDLE", help=BUNDLE_HELP, envvar="IGSP_BUNDLE")
    config = typer.Option(
        "--config", metavar="FILE", help="YAML file of options, as `max_batch: 64`.", envvar="IGSP_CONFIG"
    )
    made = [
        inspect.Parameter("bundle", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=Annotated[Path, bundle]),
        inspect.Parameter(
            "config", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[str | None, config]
        ),
    ]
    for field in dataclasses.fields(Settings):
        of, many = kind(field)
        text, choices = field.metadata["text"], field.metadata["choices"]
        if choices:
            text += f" One of {', '.join(choices)}."
        if many:
            text += " May be given several times."
        if default := shown_default(field):
            text += rf" \[default: {default}]"  # rich would take it for markup
        name = flag(field.name)
        shown: Any = {"help": text, "show_default": False, "rich_help_panel": field.metadata["group"]}
        if of is bool:
            option = typer.Option(f"{name}/--no-{name[2:]}", **shown)
            hint: Any = bool | None
        else:
            metavar = {int: "N", float: "X", Path: "PATH"}.get(of, "TEXT")
            option = typer.Option(name, metavar=metavar, **shown)
            hint = list[str] | None if many else str | None
        made.append(
            inspect.Parameter(
                field.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[hint, option]
            )
        )
    return made


serve.__signature__ = inspect.Signature(_parameters(), return_annotation=None)  # type: ignore[attr-defined]
serve.__annotations__ = {p.name: p.annotation for p in _parameters()}
