"""Texts that people compare images with, as the sentences that CLIP reads: one rule for every way in."""

import re

from igsp_deploy.errors import UserError
from igsp_deploy.names import DEFAULT_TEMPLATE, has_one_place

MAX_TEMPLATE = 300
"""Characters of a template."""
_SENTENCE = re.compile(r"(an?|the)\s.+|.+[.!?]", re.IGNORECASE | re.DOTALL)


def as_sentence(text: str, template: str | None = None) -> str:
    """What CLIP reads for a text.

    Args:
        text: words, or a whole sentence.
        template: put around the text, whatever it is; `{}` leaves every text as it is. Without one, or with the default
            one, a sentence stays (it begins with an article, or ends as sentences do) and words are put into
            "a photo of a {}.", with which CLIP tells things apart better than by bare words (arXiv 2103.00020, 3.1.4).

    Example:
        >>> as_sentence("red boot"), as_sentence("a red boot"), as_sentence("red boot", "{}")
        ('a photo of a red boot.', 'a red boot', 'red boot')
    """
    if template is None or template == DEFAULT_TEMPLATE:
        return text if _SENTENCE.fullmatch(text) else DEFAULT_TEMPLATE.replace("{}", text)
    return template.replace("{}", text)


def check_readable(*texts: str) -> None:
    """Refuse texts that are none: a terminal's bytes in another encoding, or half a character of JSON.

    Raises:
        UserError: one cannot be written as UTF-8; shows it.
    """
    for text in texts:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise UserError(f"{text[:60]!r} is no text: it holds bytes that are not UTF-8. Write it anew.") from error


def check_template(template: str) -> str:
    """Return `template`, without the space around it, if it has one place for the text.

    Raises:
        UserError: it has none, several, or other braces; or it is too long.
    """
    template = template.strip()
    if not has_one_place(template):
        raise UserError(f"the template must hold {{}} once, where the text goes, for example: {DEFAULT_TEMPLATE}")
    if len(template) > MAX_TEMPLATE:
        raise UserError(f"the template may have {MAX_TEMPLATE} characters, this one has {len(template):,}.")
    return template
