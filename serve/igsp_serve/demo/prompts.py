"""The user's own words, one a line."""

from igsp_deploy.errors import UserError

MAX_PROMPTS = 1000
"""Lines that are taken; each is a run of the text tower."""
MAX_LENGTH = 300
"""Characters of one line."""


def read_prompts(text: str) -> list[str]:
    """The lines of a text, without the empty ones and without repeats.

    Raises:
        UserError: none, too many, or one too long.
    """
    lines = list(dict.fromkeys(line.strip() for line in (text or "").splitlines() if line.strip()))
    if not lines:
        raise UserError("Write at least one label of your own, one a line, for example: cat.")
    if len(lines) > MAX_PROMPTS:
        raise UserError(f"At most {MAX_PROMPTS} labels of your own are compared at once; these are {len(lines):,}.")
    longest = max(lines, key=len)
    if len(longest) > MAX_LENGTH:
        raise UserError(f"A label may have {MAX_LENGTH} characters; “{longest[:40]}…” has {len(longest):,}.")
    return lines
