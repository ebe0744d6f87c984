"""Every option of the server, in one place: default, limits and what it does.

The command line, the environment variables and the table in the README are made from this.
"""

# ruff: noqa: RUF009 (`option` makes a field, like dataclasses.field)

import dataclasses
import logging
import os
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from igsp_deploy.errors import UsageError

logger = logging.getLogger(__name__)

PREFIX = "IGSP_"
"""Of the environment variables."""


def option(
    default: Any, text: str, *, least: float | None = None, most: float | None = None, choices: tuple[str, ...] = ()
) -> Any:
    """A field of `Settings`.

    Args:
        default: its value unless given.
        text: what it does, with its unit.
        least: smallest number allowed.
        most: largest number allowed.
        choices: words allowed.
    """
    limits = {"text": text, "least": least, "most": most, "choices": choices}
    return dataclasses.field(default=default, metadata=limits)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Options of `igsp serve`. `Settings.read` takes them from texts and finds all errors at once."""

    host: str = option("127.0.0.1", "Address to listen on; 0.0.0.0 for all.")
    port: int = option(8000, "Port to listen on; 0 takes a free one.", least=0, most=65535)
    root_path: str = option("", "Path at which a proxy shows this server, for example /igsp; it may strip it or not.")
    cors_origin: tuple[str, ...] = option(
        (), "Web pages of this origin may ask, for example https://shop.example; *: all."
    )
    name: str = option("igsp", "Name of the model in answers and under /v2/models.")
    provider: str = option("auto", "Where to run.", choices=("auto", "cpu", "cuda", "tensorrt"))
    allow_fallback: bool = option(False, "Take another provider where the wanted one does not work.")
    precision: str | None = option(None, "Graphs to use (fp32, fp16, ...); the best for the provider unless given.")
    threads: int = option(0, "CPU threads of one operator; 0 takes those the process may use.", least=0, most=1024)
    spinning: bool = option(False, "CPU threads of the model wait for work by spinning: faster alone on a machine.")

    batch_sizes: tuple[int, ...] = option((), "Run the model in batches of these sizes only, padded to the next one.")
    cuda_graph: bool = option(False, "Capture a CUDA graph for each of the batch sizes.")
    engine_cache: Path | None = option(None, "Folder where TensorRT keeps the engines it builds.")

    max_batch: int = option(32, "Images in one call of the model.", least=1, most=4096)
    max_wait_ms: float = option(2.0, "Longest wait of an image for others while the model is idle.", least=0, most=1e4)
    queue: int = option(512, "Images admitted and not yet in the model; beyond it 429.", least=1, most=1_000_000)
    decode_threads: int = option(
        0, "Threads that decode images; 0 takes one a CPU that the process may use.", least=0, most=256
    )
    timeout_s: float = option(30.0, "Time of a request, and the most it may ask for; beyond it 504.", least=0.01)

    max_images: int = option(64, "Images in one request.", least=1, most=100_000)
    max_texts: int = option(256, "Prompts or texts in one request.", least=1, most=100_000)
    max_text_length: int = option(2000, "Characters of one prompt or text.", least=1)
    max_pixels: int = option(50_000_000, "Pixels of one image, from its header.", least=1)
    max_body_bytes: int = option(32 * 2**20, "Bytes of a request's body, unpacked.", least=1024)
    max_buffered_bytes: int = option(512 * 2**20, "Bytes of all bodies held at once; beyond it 503.", least=1024)
    max_requests: int = option(2048, "Requests in progress; beyond it 503.", least=1)
    max_connections: int = option(4096, "Open connections; beyond it 503 and close.", least=1)
    max_header_bytes: int = option(65_536, "Bytes of a request's line and headers.", least=1024)
    header_timeout_s: float = option(10.0, "Time a client has for a request's headers.", least=0.05)
    body_timeout_s: float = option(30.0, "Time a client has for a request's body, or to take an answer.", least=0.05)
    keep_alive_s: int = option(75, "Time an idle connection stays open.", least=1)

    api_keys: tuple[str, ...] = option((), "Keys that may use the server; none leaves it open to all.")
    api_key_file: Path | None = option(None, "File of such keys, one a line, # for remarks.")
    admin_keys: tuple[str, ...] = option((), "Keys that may change tasks and bundles; none forbids it to all.")
    admin_key_file: Path | None = option(None, "File of such keys.")
    public_metrics: bool = option(False, "Serve /metrics without a key.")
    bundle_roots: tuple[Path, ...] = option((), "Folders from which bundles and tasks may be loaded over HTTP.")
    max_tasks: int = option(1000, "Tasks the model may hold.", least=1)

    shutdown_delay_s: float = option(1.0, "Time to go on serving after SIGTERM while not ready.", least=0)
    grace_s: float = option(30.0, "Time for requests in progress after that.", least=0)
    stall_s: float = option(120.0, "A model call that takes longer makes the server not live.", least=1)

    tls_key: Path | None = option(None, "Private key of TLS, PEM.")
    tls_certificate: Path | None = option(None, "Certificate chain of TLS, PEM.")
    log_level: str = option("info", "Least level of a log line.", choices=("debug", "info", "warning", "error"))
    access_log: bool = option(True, "Log a line for each request.")
    docs: bool = option(True, "Serve /docs and /openapi.json.")
    demo: bool = option(False, "Serve the Gradio demo at /demo.")

    low_confidence: float = option(0.5, "Score of the best label below which a sample is kept.", least=0, most=1)
    drift_samples: int = option(200, "Low-confidence samples whose scores are kept.", least=0, most=100_000)
    drift_images: Path | None = option(None, "Folder for the images of those samples; none keeps no image.")
    drift_max_images: int = option(200, "Images in that folder; the oldest go first.", least=1)
    drift_max_bytes: int = option(256 * 2**20, "Bytes in that folder.", least=1024)

    def __post_init__(self) -> None:
        """Check values and how they go together."""
        errors = [error for f in dataclasses.fields(self) if (error := _check(f, getattr(self, f.name)))]
        if not errors and self.queue < self.max_images:
            errors.append(
                f"queue must hold the images of one request: it is {self.queue}, max_images {self.max_images}. "
                "Raise queue or lower max_images."
            )
        if (self.tls_key is None) != (self.tls_certificate is None):
            errors.append("tls_key and tls_certificate go together: give both or none.")
        if not errors and self.max_buffered_bytes < self.max_body_bytes:
            errors.append("max_buffered_bytes must be at least max_body_bytes.")
        if self.root_path and (not self.root_path.startswith("/") or self.root_path.endswith("/")):
            errors.append(f"root_path must start with / and not end with it, as /igsp, got {self.root_path!r}.")
        errors += [
            f"cors_origin must be * or an origin without a path, as https://shop.example, got {origin!r}."
            for origin in self.cors_origin
            if not re.fullmatch(r"\*|[a-z][a-z0-9+.-]*://[^/\s]+", origin)
        ]
        _raise(errors)

    @classmethod
    def read(cls, given: Mapping[str, Any], environment: Mapping[str, str] | None = None) -> "Settings":
        """Settings from texts, as the command line and the environment have them.

        Args:
            given: name of an option -> its text, a bool, or a list of texts; None is not given. Goes before the
                environment.
            environment: variables; those of the process by default. Lists are separated as in PATH (keys: by commas).

        Raises:
            UsageError: names every option and variable that is wrong, one a line.
        """
        variables = os.environ if environment is None else environment
        values: dict[str, Any] = {}
        errors: list[str] = []
        known = {f.name: f for f in dataclasses.fields(cls)}
        for name, field in known.items():
            source, raw = f"--{name.replace('_', '-')}", given.get(name)
            if raw is None:
                source = variable(name)
                text = variables.get(source)
                if text is None or text == "" or _is_of_kubernetes(name, text):
                    continue
                raw = text
            try:
                values[name] = _parse(field, raw)
            except ValueError as error:
                errors.append(f"{source} {error}")
                continue
            if problem := _check(field, values[name]):
                errors.append(f"{source}: {problem}")
        unknown = sorted(set(given) - set(known))
        errors += [f"there is no option {name!r}." for name in unknown]
        if not errors:
            return cls(**values)
        _raise(errors)
        raise AssertionError

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


def kind(field: "dataclasses.Field[Any]") -> tuple[type, bool]:
    """Type of one value of an option, and whether it takes several."""
    hint = typing.get_type_hints(Settings)[field.name]
    if typing.get_origin(hint) is tuple:
        return typing.get_args(hint)[0], True
    if isinstance(hint, types.UnionType):
        return next(t for t in typing.get_args(hint) if t is not types.NoneType), False
    return hint, False


def table() -> str:
    """The options as a Markdown table."""
    rows = ["| option | variable | default | what |", "| --- | --- | --- | --- |"]
    for field in dataclasses.fields(Settings):
        default = field.default
        shown = "" if default in (None, ()) else str(default).lower() if isinstance(default, bool) else str(default)
        text = field.metadata["text"]
        if field.metadata["choices"]:
            text += f" One of {', '.join(field.metadata['choices'])}."
        rows.append(f"| `--{field.name.replace('_', '-')}` | `{variable(field.name)}` | {shown} | {text} |")
    return "\n".join(rows) + "\n"


def _is_of_kubernetes(name: str, text: str) -> bool:
    """A Service called `igsp` puts IGSP_PORT=tcp://10.0.0.1:80 into every pod beside it: it is not meant for us."""
    if name != "port" or not text.startswith(("tcp://", "udp://", "sctp://")):
        return False
    logger.warning(
        "%s=%s is of Kubernetes, which says so of a Service called igsp: ignored. Set enableServiceLinks: false.",
        variable(name),
        text,
    )
    return True


def _parse(field: "dataclasses.Field[Any]", raw: Any) -> Any:
    of, many = kind(field)
    if many:
        if isinstance(raw, str):
            raw = raw.split(os.pathsep if of is Path else ",")
        return tuple(_one(of, str(text).strip()) for text in raw if str(text).strip())
    return _one(of, raw)


def _one(of: type, raw: Any) -> Any:
    if isinstance(raw, of) and not (of is int and isinstance(raw, bool)):
        return raw
    text = str(raw).strip()
    if of is bool:
        if text.lower() in ("1", "true", "yes", "on"):
            return True
        if text.lower() in ("0", "false", "no", "off"):
            return False
        raise ValueError(f"must be true or false, got {text!r}.")
    try:
        return of(text)
    except ValueError:
        what = {int: "a whole number", float: "a number"}.get(of, f"a {of.__name__}")
        raise ValueError(f"must be {what}, got {text!r}.") from None


def _check(field: "dataclasses.Field[Any]", value: Any) -> str | None:
    least, most, choices = (field.metadata[key] for key in ("least", "most", "choices"))
    if choices and value not in choices:
        return f"{field.name} must be one of {', '.join(choices)}, got {value!r}."
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        low = least is not None and not value >= least
        high = most is not None and not value <= most
        if low or high or value != value:
            limits = f"at least {least:g}" if most is None else f"in [{least:g}, {most:g}]"
            return f"{field.name} must be {limits}, got {value}."
    return None


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
