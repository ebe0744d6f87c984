# ruff: noqa: E402
"""The `igsp` command: registers the commands and turns mistakes of the user into one line."""

# First of all: from here on Ctrl-C is one line.
from igsp_deploy.cli.interrupts import INTERRUPTED, handle_interrupts

handle_interrupts()

import importlib
import io
import os
import sys
from typing import Annotated

import typer

from igsp_deploy import __version__
from igsp_deploy.doors import COMMANDS
from igsp_deploy.errors import UserError

EXTRAS = {
    "onnxruntime": "cpu",
    "torch": "train",
    "torchvision": "train",
    "open_clip": "train",
    "timm": "train",
    "matplotlib": "train",
    "jinja2": "train",
    "markupsafe": "train",
    "scipy": "train",
    "accelerate": "train",
    "sklearn": "quickstart",
    "skimage": "quickstart",
    "onnx": "export",
    "onnx_ir": "export",
    "onnxscript": "export",
    "regex": "export",
    "huggingface_hub": "hub",
    "datasets": "data",
    "pyarrow": "data",
    "fastapi": "serve",
    "starlette": "serve",
    "anyio": "serve",
    "uvicorn": "serve",
    "pydantic_settings": "serve",
    "prometheus_client": "serve",
    "python_multipart": "serve",
    "httpx2": "serve",
    "grpc": "grpc",
    "grpc_health": "grpc",
    "grpc_reflection": "grpc",
    "google": "grpc",
    "gradio": "demo",
    "ray": "ray",
    "opentelemetry": "otel",
}
"""Module that only some commands need -> extra that brings it."""

WHOLE = {"export": "export", "bench": "export", "quickstart": "quickstart"}
"""Command -> extra that brings all it needs, where a module of it (torch) comes with several."""

app = typer.Typer(
    name="igsp",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"igsp-deploy {__version__}")
        raise typer.Exit


@app.callback()
def igsp(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """Keep teaching one frozen CLIP new recognition tasks, and ship it as one ONNX bundle."""


for _name, _place in COMMANDS.items():
    _module = importlib.import_module(_place)
    app.command(_name, epilog=getattr(_module, "EXAMPLES", None))(getattr(_module, _place.rpartition(".")[2]))


def _remedy(module: str) -> str:
    """What to type when a module of `EXTRAS` is missing."""
    from igsp_deploy.installed import install_command

    extra = EXTRAS[module]
    if extra in ("train", "export", "quickstart"):
        command = next((word for word in sys.argv[1:] if word in COMMANDS), "")
        extra = WHOLE.get(command, extra)
    remedy = f"Install it with: {install_command(extra)}"
    if module == "onnxruntime":
        return f"{remedy} (without a GPU), or {install_command('gpu')} (with an NVIDIA GPU), never both."
    return remedy


def run(words: list[str]) -> None:
    """Run one command in this process, as `igsp WORDS` would; mistakes are raised.

    Raises:
        UserError: what the command says of the user's mistakes.
        typer.Exit: the command ended early, with its exit code.
    """
    command = typer.main.get_command(app)
    with command.make_context("igsp", list(words)) as context:
        command.invoke(context)


def main() -> None:
    """Run `igsp`: exit 0, 1 for what the user can fix, 2 for a wrong command, 130 when interrupted."""
    # Idle threads of torch sleep instead of spinning: on a machine that does other work too, spinning made learning
    # several times slower. Read when torch is imported, which no command does before this.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    for stream in (sys.stdout, sys.stderr):  # a file's name may be no text at all
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if sys.platform == "win32":
        print("error: igsp runs on Linux and macOS; on Windows run it in WSL 2, which is a Linux.", file=sys.stderr)
        sys.exit(1)
    try:
        app()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except BrokenPipeError:  # `igsp ... | head`: nobody reads any more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:  # whatever no command foresaw
        place = f" ({os.fsdecode(error.filename)})" if error.filename is not None else ""
        print(
            f"error: {error.strerror or error}{place}. Check the path, its permissions and the disk.", file=sys.stderr
        )
        sys.exit(1)
    except ModuleNotFoundError as error:
        if error.name not in EXTRAS:
            raise
        print(f"error: this command needs {error.name}, which is not installed. {_remedy(error.name)}", file=sys.stderr)
        sys.exit(1)
    except SystemExit as leaving:
        if leaving.code == INTERRUPTED:
            print("interrupted", file=sys.stderr)
        raise


if __name__ == "__main__":
    main()
