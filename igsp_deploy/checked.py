"""Settings and records that are checked where they are made: pydantic's dataclasses, with errors in one plain line."""

import dataclasses
import difflib
import os
import typing
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar, dataclass_transform

import pydantic.dataclasses
from pydantic import BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from igsp_deploy.errors import UsageError, UserError

T = TypeVar("T")

Whole = Annotated[int, Field(strict=True)]
"""A whole number; true and 3.0 are none."""
Positive = Annotated[int, Field(strict=True, ge=1)]
"""A whole number from 1."""
Count = Annotated[int, Field(strict=True, ge=0)]
"""A whole number from 0."""
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
"""A finite number, kept as a float."""
Share = Annotated[float, Field(strict=True, ge=0, le=1)]
"""A number in [0, 1]."""
Flag = Annotated[bool, Field(strict=True)]
"""True or false; 0 and "yes" are neither."""
PathText = Annotated[str, BeforeValidator(lambda v: os.fspath(v) if isinstance(v, os.PathLike) else v)]
"""Text that may be given as a path."""

_EXPECTED = {
    "bool_type": "true or false",
    "dataclass_type": "a mapping",
    "dict_type": "a mapping",
    "finite_number": "a finite number",
    "float_type": "a number",
    "greater_than": "more than {gt:g}",
    "greater_than_equal": "at least {ge:g}",
    "int_type": "a whole number",
    "less_than": "less than {lt:g}",
    "less_than_equal": "at most {le:g}",
    "list_type": "a list",
    "literal_error": "one of {expected}",
    "string_type": "text",
    "too_long": "at most {max_length} in number",
    "too_short": "at least {min_length} in number",
    "tuple_type": "a list",
}
"""Type of pydantic's error -> what was expected, in our words."""


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(dataclasses.field,))
def checked(cls: type[T]) -> type[T]:
    """Make a frozen, keyword-only dataclass whose values are checked whenever one is made, `dataclasses.replace` too.

    Raises:
        UsageError: (when an instance is made) unknown names or values that do not fit; says all of them at once.
    """
    return _checked(cls, "forbid")


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(dataclasses.field,))
def stored(cls: type[T]) -> type[T]:
    """As `checked`, for what lies in a file: keys of later versions are passed over."""
    return _checked(cls, "ignore")


def _checked(cls: type[T], extra: Literal["forbid", "ignore"]) -> type[T]:
    made: Any = pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=ConfigDict(extra=extra))(cls)
    take = made.__init__

    def __init__(self: Any, **values: Any) -> None:
        try:
            take(self, **values)
        except ValidationError as error:
            raise UsageError(f"{cls.__name__}: {explain(error, made)}") from None

    made.__init__ = __init__
    return typing.cast("type[T]", made)


def build(cls: type[T], values: Any, where: str, *, kind: type[UserError] = UsageError) -> T:
    """Make a checked dataclass from plain values (YAML or JSON), reporting every mistake at once.

    Args:
        cls: made by `checked`, for example `RunConfig`.
        values: nested mapping; what is absent keeps its default.
        where: file or option the values came from, for the message; empty for none.
        kind: error to raise.

    Raises:
        UsageError: (or `kind`) unknown keys, wrong types or values out of range; lists all of them with their path.
    """
    try:
        return TypeAdapter(cls).validate_python(values)
    except ValidationError as error:
        raise kind(f"{where}: {explain(error, cls)}" if where else explain(error, cls)) from None


def explain(error: ValidationError, cls: Any) -> str:
    """All mistakes in one line: where, what was expected, what came; for an unknown name the one that was meant."""
    return "; ".join(_sentence(one, cls) for one in error.errors(include_url=False))


def _sentence(error: ErrorDetails, cls: Any) -> str:
    place = [part for part in error["loc"] if part != "[key]"]
    where = ".".join(str(part) for part in place)
    if error["type"] == "unexpected_keyword_argument":
        return f"{where} is not an option; {_hint(place, cls)}"
    if error["type"] in ("missing", "missing_keyword_only_argument"):
        return f"{where} is missing"
    context = error.get("ctx", {})
    if error["type"] == "value_error":
        return f"{where} {context['error']}"
    expected = _EXPECTED.get(error["type"])
    wanted = expected.format(**context) if expected else error["msg"].removeprefix("Input should be ")
    got = repr(error["input"])
    return f"{where or 'it'} must be {wanted}, got {got if len(got) <= 80 else got[:77] + '...'}"


def _hint(place: list[int | str], cls: Any) -> str:
    """The option that was meant, here or in another section; else what there is here."""
    *sections, key = (str(part) for part in place)
    for section in sections:
        cls = _fields(cls).get(section)
    names = _fields(cls)
    near = difflib.get_close_matches(key, names, n=1)
    if near:
        return f"did you mean {'.'.join([*sections, near[0]])}?"
    inner = [section for section, kind in names.items() if key in _fields(kind)]
    return f"did you mean {inner[0]}.{key}?" if inner else f"known here: {', '.join(sorted(names))}"


def _fields(cls: Any) -> Mapping[str, Any]:
    return typing.get_type_hints(cls) if dataclasses.is_dataclass(cls) else {}
