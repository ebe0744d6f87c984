"""`igsp serve`: a bundle over HTTP. Torch is not needed."""

import dataclasses
import inspect
from pathlib import Path
from typing import Annotated, Any

import typer

# A dataclass and nothing heavy: the options are made from it, so that each is declared once.
from igsp_serve.settings import Settings, kind

EXAMPLES = """Examples:

igsp serve bundle

igsp serve bundle --host 0.0.0.0 --port 80 --api-key-file keys.txt --max-batch 64

IGSP_API_KEYS=secret igsp serve bundle --demo"""


def serve(bundle: Path, **options: Any) -> None:
    """Serve BUNDLE over HTTP: /v1/classify, the Open Inference Protocol at /v2, /metrics, /docs.

    Each option may also come from the environment as IGSP_OPTION, for example IGSP_MAX_BATCH.
    """
    from igsp_serve.http.server import serve as run

    given = {name: value for name, value in options.items() if value not in (None, [])}
    run(bundle, Settings.read(given))


def _parameters() -> list[inspect.Parameter]:
    """BUNDLE, and an option for each field of `Settings`. Their texts are read by `Settings`, all errors at once."""
    bundle = typer.Argument(metavar="BUNDLE", help="Bundle folder.", envvar="IGSP_BUNDLE")
    made = [inspect.Parameter("bundle", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=Annotated[Path, bundle])]
    for field in dataclasses.fields(Settings):
        of, many = kind(field)
        text, choices = field.metadata["text"], field.metadata["choices"]
        default = field.default
        if choices:
            text += f" One of {', '.join(choices)}."
        if default not in (None, (), False, True):
            text += f" [default: {default}]"
        if many:
            text += " May be given several times."
        flag = f"--{field.name.replace('_', '-')}"
        if of is bool:
            option = typer.Option(f"{flag}/--no-{flag[2:]}", help=text, show_default=False)
            hint: Any = bool | None
        else:
            metavar = {int: "N", float: "X", Path: "PATH"}.get(of, "TEXT")
            option = typer.Option(flag, help=text, metavar=metavar, show_default=False)
            hint = list[str] | None if many else str | None
        made.append(
            inspect.Parameter(
                field.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[hint, option]
            )
        )
    return made


serve.__signature__ = inspect.Signature(_parameters(), return_annotation=None)  # type: ignore[attr-defined]
serve.__annotations__ = {p.name: p.annotation for p in _parameters()}
