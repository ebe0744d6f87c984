"""Reading and checking `Settings` with pydantic-settings, whose model is made from their fields."""

import dataclasses
import difflib
import functools
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, Field, ValidationError, create_model
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    YamlConfigSettingsSource,
)

from igsp_deploy.errors import UsageError
from igsp_deploy.yaml_keys import check_unique_keys
from igsp_serve.settings import PREFIX, Settings, flag, kind, variable

logger = logging.getLogger(__name__)

_EXPECTED = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    Path: "a path",
}


def check(settings: Settings) -> list[str]:
    """What is wrong with values, each by itself."""
    values = {field.name: getattr(settings, field.name) for field in dataclasses.fields(Settings)}
    try:
        _model().model_validate(values)
    except ValidationError as error:
        return [_sentence(one, "") for one in error.errors(include_url=False)]
    return []


def read(given: Mapping[str, Any], config: Path | None) -> tuple[dict[str, Any], list[str]]:
    """Values by name, or what is wrong with what was given.

    Args:
        given: the command line's options.
        config: YAML file of options.
    """
    if config is not None and (error := _check_file(config)):
        return {}, [error]

    class Reader(_Sources, yaml_file=config):
        pass

    reader = create_model("Options", __base__=Reader, **_fields())
    try:
        found = reader(**given)
    except ValidationError as error:
        return {}, [_sentence(one, _source(one, given, config)) for one in error.errors(include_url=False)]
    return found.model_dump(exclude_unset=True), []


class _Environment(EnvSettingsSource):
    def __call__(self) -> dict[str, Any]:
        found = super().__call__()
        # A Service called `igsp` or `igsp-grpc` sets these in every pod beside it.
        for name in ("port", "grpc_port"):
            port = found.get(name)
            if isinstance(port, str) and port.startswith(("tcp://", "udp://", "sctp://")):
                logger.warning(
                    "%s=%s is of Kubernetes, which says so of a Service of this name: ignored. "
                    "Set enableServiceLinks: false in the pod.",
                    variable(name),
                    port,
                )
                del found[name]
        return found


class _Sources(BaseSettings):
    """The command line before the environment before a file; a name that is not known is an error in each of them."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", env_ignore_empty=True)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (
            init_settings,
            _Environment(settings_cls, env_prefix=PREFIX, env_ignore_empty=True),
            YamlConfigSettingsSource(settings_cls),
        )


@functools.cache
def _model() -> type[BaseModel]:
    return create_model("Options", __config__={"extra": "forbid"}, **_fields())


@functools.cache
def _fields() -> dict[str, Any]:
    return {field.name: (_annotation(field), field.default) for field in dataclasses.fields(Settings)}


def _annotation(field: "dataclasses.Field[Any]") -> Any:
    of, many = kind(field)
    one: Any = of
    if field.metadata["choices"]:
        one = Literal[field.metadata["choices"]]
    elif of in (int, float):
        limits = Field(
            ge=field.metadata["least"], le=field.metadata["most"], allow_inf_nan=False if of is float else None
        )
        one = Annotated[of, limits, BeforeValidator(_no_bool)]
    if many:
        return Annotated[tuple[one, ...], NoDecode, BeforeValidator(functools.partial(_split, of))]
    return one if field.default is not None else one | None


def _no_bool(value: Any) -> Any:
    """True is not the number 1."""
    return str(value).lower() if isinstance(value, bool) else value


def _split(of: type, value: Any) -> Any:
    """Several values in one text, as a variable holds them."""
    if isinstance(value, str):
        value = value.split(os.pathsep if of is Path else ",")
    if not isinstance(value, (list, tuple)):
        return value
    stripped = [text.strip() if isinstance(text, str) else text for text in value]
    return [text for text in stripped if text != ""]


def _check_file(path: Path) -> str | None:
    """Why a file cannot be read as options."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        check_unique_keys(path)
    except UsageError as error:
        return str(error)
    except (OSError, UnicodeDecodeError) as error:
        return f"--config {path} cannot be read ({error}). Give a YAML file of options, for example `max_batch: 64`."
    except (yaml.YAMLError, ValueError) as error:  # also of dates that are none
        return f"--config {path} is not YAML ({' '.join(str(error).split())})."
    if values is not None and not isinstance(values, dict):
        return f"--config {path} must hold options by name, for example `max_batch: 64`, got {values!r:.80}."
    return None


def _source(error: ErrorDetails, given: Mapping[str, Any], config: Path | None) -> str:
    """Where a wrong value came from, as the user wrote it."""
    name = str(error["loc"][0]) if error["loc"] else ""
    if name in given:
        return flag(name)
    if os.environ.get(variable(name)):
        return variable(name)
    return f"{config}: {name}"


def _sentence(error: ErrorDetails, source: str) -> str:
    """What was expected and what came."""
    name = str(error["loc"][0]) if error["loc"] else "it"
    known = {field.name: field for field in dataclasses.fields(Settings)}
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        remedy = f"did you mean {near[0]}?" if near else "see igsp serve --help."
        return f"{source or name}: there is no option {name!r}; {remedy}"
    field = known[name]
    of, many = kind(field)
    least, most, choices = (field.metadata[key] for key in ("least", "most", "choices"))
    expected = _EXPECTED[of]
    if choices:
        expected = f"one of {', '.join(choices)}"
    elif error["type"] in ("greater_than_equal", "less_than_equal", "finite_number"):
        expected += f" from {least:,.12g}" if most is None else f" in [{least:,.12g}, {most:,.12g}]"
    elif error["type"] == "tuple_type":
        expected = "a list"
    each = " each" if many and error["type"] != "tuple_type" else ""
    return f"{source or name} must be {expected}{each}, got {error['input']!r:.80}."
