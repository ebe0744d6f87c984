"""Options that several commands share."""

from typing import Literal, cast

from igsp_deploy.errors import UsageError

PROVIDERS = ("auto", "cpu", "cuda", "tensorrt")


def check_provider(value: str) -> Literal["auto", "cpu", "cuda", "tensorrt"]:
    """Return `value` if it names a provider.

    Raises:
        UsageError: it does not.
    """
    if value not in PROVIDERS:
        raise UsageError(f"--provider must be one of {', '.join(PROVIDERS)}, got {value!r}.")
    return cast(Literal["auto", "cpu", "cuda", "tensorrt"], value)
