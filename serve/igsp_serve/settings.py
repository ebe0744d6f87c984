"""Every option of the server, in one place: default, limits and what it does.

The command line, the environment variables, the table in the README and what pydantic-settings reads are made from
this. Nothing heavy is imported before values are read, so that `igsp --help` is instant.
"""

# ruff: noqa: RUF009 (`option` makes a field, like dataclasses.field)

import dataclasses
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from igsp_deploy.errors import UsageError

PREFIX = "IGSP_"
"""Of the environment variables."""


def option(
    default: Any,
    text: str,
    group: str,
    *,
    least: float | None = None,
    most: float | None = None,
    choices: tuple[str, ...] = (),
) -> Any:
    """A field of `Settings`.

    Args:
        default: its value unless given.
        text: what it does, with its unit.
        group: heading it stands under in `igsp serve --help`.
        least: smallest number allowed.
        most: largest number allowed.
        choices: words allowed.
    """
    limits = {"text": text, "group": group, "least": least, "most": most, "choices": choices}
    return dataclasses.field(default=default, metadata=limits)


ADDRESS, MODEL, BATCHES = "Address", "Model and device", "Batches and time"
LIMITS, ACCESS, OPERATION = "Limits", "Keys and TLS", "Operation"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Options of `igsp serve`. `Settings.read` takes them from texts and finds all errors at once."""

    host: str = option("127.0.0.1", "Address to listen on; 0.0.0.0 for all.", ADDRESS)
    port: int = option(8000, "Port to listen on; 0 takes a free one.", ADDRESS, least=0, most=65535)
    root_path: str = option(
        "", "Path at which a proxy shows this server, for example /igsp; the proxy may strip it or not.", ADDRESS
    )
    cors_origin: tuple[str, ...] = option(
        (), "Web pages of this origin may ask, for example https://shop.example; * for all.", ADDRESS
    )
    grpc_port: int | None = option(
        None, "Port for gRPC, beside HTTP; 0 takes a free one; none unless given.", ADDRESS, least=0, most=65535
    )
    docs: bool = option(True, "Serve /docs and /openapi.json.", ADDRESS)
    demo: bool = option(False, "Serve the Gradio demo at /demo.", ADDRESS)

    name: str = option("igsp", "Name of the model in answers and under /v2/models.", MODEL)
    provider: str = option(
        "auto", "Where to run; tensorrt is experimental.", MODEL, choices=("auto", "cpu", "cuda", "tensorrt")
    )
    allow_fallback: bool = option(False, "Take another provider where the wanted one does not work.", MODEL)
    precision: str | None = option(
        None, "Graphs to use: fp32, fp16, int8, or bf16 (experimental); the best for the provider unless given.", MODEL
    )
    threads: int = option(
        0, "CPU threads of one operator; 0 takes those the process may use.", MODEL, least=0, most=1024
    )
    spinning: bool = option(
        False, "CPU threads of the model wait for work by spinning: faster alone on a machine.", MODEL
    )
    cuda_graph: bool = option(False, "Capture a CUDA graph for each of the batch sizes (experimental).", MODEL)
    engine_cache: Path | None = option(None, "Folder where TensorRT keeps the engines it builds (experimental).", MODEL)
    bundle_roots: tuple[Path, ...] = option((), "Folders from which bundles and tasks may be loaded over HTTP.", MODEL)

    max_batch: int = option(32, "Images in one call of the model.", BATCHES, least=1, most=4096)
    max_wait_ms: float = option(
        2.0, "Longest wait of an image for others while the model is idle.", BATCHES, least=0, most=1e4
    )
    batch_sizes: tuple[int, ...] = option(
        (), "Run the model in batches of these sizes only, padded to the next one.", BATCHES, least=1, most=4096
    )
    queue: int = option(
        512, "Images admitted and not yet in the model; beyond it 429.", BATCHES, least=1, most=1_000_000
    )
    timeout_s: float = option(
        30.0, "Time of a request, and the most it may ask for; beyond it 504.", BATCHES, least=0.01
    )

    max_images: int = option(64, "Images in one request.", LIMITS, least=1, most=100_000)
    max_texts: int = option(256, "Prompts or texts in one request.", LIMITS, least=1, most=100_000)
    max_pixels: int = option(50_000_000, "Pixels of one image, from its header.", LIMITS, least=1)
    max_body_bytes: int = option(
        32 * 2**20, "Bytes of a request's body, unpacked; 16 times as many in all bodies together.", LIMITS, least=1024
    )
    max_connections: int = option(4096, "Open connections; beyond it 503 and close.", LIMITS, least=1)
    body_timeout_s: float = option(
        30.0, "Time a client has for a request's body, or to take an answer.", LIMITS, least=0.05
    )

    api_keys: tuple[str, ...] = option((), "Keys that may use the server; none leaves it open to all.", ACCESS)
    api_key_file: Path | None = option(None, "File of such keys, one a line, # for remarks.", ACCESS)
    admin_keys: tuple[str, ...] = option((), "Keys that may change tasks and bundles; none forbids it to all.", ACCESS)
    admin_key_file: Path | None = option(None, "File of such keys.", ACCESS)
    public_metrics: bool = option(False, "Serve /metrics without a key.", ACCESS)
    tls_key: Path | None = option(None, "Private key of TLS, PEM.", ACCESS)
    tls_certificate: Path | None = option(None, "Certificate chain of TLS, PEM.", ACCESS)

    log_level: str = option(
        "info", "Least level of a log line.", OPERATION, choices=("debug", "info", "warning", "error")
    )
    shutdown_delay_s: float = option(1.0, "Time to go on serving after SIGTERM while not ready.", OPERATION, least=0)
    grace_s: float = option(30.0, "Time for requests in progress after that.", OPERATION, least=0)
    stall_s: float = option(120.0, "A model call that takes longer makes the server not live.", OPERATION, least=1)
    drift_images: Path | None = option(
        None, "Folder for images the model was unsure of; none keeps no image.", OPERATION
    )

    def __post_init__(self) -> None:
        """Check values and how they go together.

        Raises:
            UsageError: names all that is wrong.
        """
        from igsp_serve.settings_reader import check

        _raise(check(self) or _misfits(self))

    @classmethod
    def read(cls, given: Mapping[str, Any], config: Path | None = None) -> "Settings":
        """Settings from texts: the command line's, before the environment's, before a file's.

        Args:
            given: name of an option -> its text, a bool, or a list of texts; None is not given. `config` names the
                file too.
            config: YAML file of options by their names. Lists in variables are separated as in PATH (keys, origins
                and numbers: by commas).

        Raises:
            UsageError: names every option, variable and line that is wrong, one a line.
        """
        from igsp_serve.settings_reader import read

        values = {name: value for name, value in given.items() if value is not None}
        named = values.pop("config", None)
        found, errors = read(values, config if named is None else Path(named))
        _raise(errors)
        return cls(**found)

    @property
    def max_buffered_bytes(self) -> int:
        """Bytes of all bodies held at once; beyond it 503."""
        return 16 * self.max_body_bytes

    @property
    def header_timeout_s(self) -> float:
        """Time a client has for a request's headers."""
        return min(10.0, self.body_timeout_s)

    def all_api_keys(self) -> tuple[str, ...]:
        """Keys given and those of the file.

        Raises:
            UsageError: the file cannot be read, or holds none.
        """
        return (*self.api_keys, *_read_keys(self.api_key_file, "api_key_file"))

    def all_admin_keys(self) -> tuple[str, ...]:
        """Admin keys given and those of the file.

        Raises:
            UsageError: the file cannot be read, or holds none.
        """
        return (*self.admin_keys, *_read_keys(self.admin_key_file, "admin_key_file"))


def variable(name: str) -> str:
    """Environment variable of an option."""
    return PREFIX + name.upper()


def flag(name: str) -> str:
    """An option as it stands on the command line."""
    return f"--{name.replace('_', '-')}"


def kind(field: "dataclasses.Field[Any]") -> tuple[type, bool]:
    """Type of one value of an option, and whether it takes several."""
    hint = typing.get_type_hints(Settings)[field.name]
    if typing.get_origin(hint) is tuple:
        return typing.get_args(hint)[0], True
    if isinstance(hint, types.UnionType):
        return next(t for t in typing.get_args(hint) if t is not types.NoneType), False
    return hint, False


def shown_default(field: "dataclasses.Field[Any]") -> str:
    """The default as a user would write it; empty where there is none."""
    default = field.default
    if default in (None, (), ""):
        return ""
    return str(default).lower() if isinstance(default, bool) else str(default)


def table() -> str:
    """The options as a Markdown table."""
    rows = ["| option | variable | default | what |", "| --- | --- | --- | --- |"]
    for field in dataclasses.fields(Settings):
        text = field.metadata["text"]
        if field.metadata["choices"]:
            text += f" One of {', '.join(field.metadata['choices'])}."
        rows.append(f"| `{flag(field.name)}` | `{variable(field.name)}` | {shown_default(field)} | {text} |")
    return "\n".join(rows) + "\n"


def _misfits(settings: Settings) -> list[str]:
    errors = []
    if settings.queue < settings.max_images:
        errors.append(
            f"queue must hold the images of one request: it is {settings.queue}, max_images {settings.max_images}. "
            "Raise queue or lower max_images."
        )
    if (settings.tls_key is None) != (settings.tls_certificate is None):
        errors.append("tls_key and tls_certificate go together: give both or none.")
    if settings.root_path and (not settings.root_path.startswith("/") or settings.root_path.endswith("/")):
        errors.append(f"root_path must start with / and not end with it, as /igsp, got {settings.root_path!r}.")
    errors += [
        f"cors_origin must be * or an origin without a path, as https://shop.example, got {origin!r}."
        for origin in settings.cors_origin
        if not re.fullmatch(r"\*|[a-z][a-z0-9+.-]*://[^/\s]+", origin)
    ]
    return errors


def _raise(errors: list[str]) -> None:
    if errors:
        raise UsageError("\n       ".join(errors))


def _read_keys(path: Path | None, name: str) -> list[str]:
    if path is None:
        return []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{name} {path} cannot be read ({error}). Give a text file with one key a line.") from error
    keys = [line.strip() for line in lines if line.strip() and not line.strip().startswith("#")]
    if not keys:
        raise UsageError(f"{name} {path} holds no key. Write one a line, or leave the option out.")
    return keys


if __name__ == "__main__":
    print(table(), end="")
