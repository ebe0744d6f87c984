"""Why a request was not answered: what the service raises, whoever asked (HTTP, demo, Ray)."""

import re
from pathlib import Path

from igsp_deploy.errors import UserError

_ABSOLUTE = re.compile(r"(?<![\w.:/])(/[^/\s'\",;()<>]+)(?:/[^/\s'\",;()<>]+)*/?")
"""What looks like an absolute path, and its first folder."""


class RequestError(UserError):
    """The request cannot be answered as it is: the caller has to change it."""


class TooLarge(RequestError):
    """More images, texts or bytes than a request may hold."""


class Overloaded(Exception):
    """The queue is full.

    Attributes:
        retry_after_s: when it is likely to have room again, from the rate at which images were answered lately.
    """

    def __init__(self, retry_after_s: float) -> None:
        """Say when to come back."""
        super().__init__("The server has more work waiting than it may hold. Try again later.")
        self.retry_after_s = retry_after_s


class DeadlineExceeded(Exception):
    """The request's time ran out; what was left of its work was dropped."""


class Unavailable(Exception):
    """The server takes no work now: it is warming up or shutting down, or its execution provider fails."""


class EngineFailed(Exception):
    """The model could not run on this request's images: our fault, not the caller's."""


def without_paths(text: str) -> str:
    """A text for strangers: of each absolute path of this machine, its last name alone.

    Paths of URLs stay: those that begin with no folder of this machine.
    """

    def last(found: re.Match[str]) -> str:
        whole = found.group()
        return Path(whole).name if Path(found[1]).exists() else whole

    return _ABSOLUTE.sub(last, text)
