"""Words and sentences."""

import pytest

from igsp_deploy.errors import UserError
from igsp_deploy.names import DEFAULT_TEMPLATE
from igsp_deploy.runtime.prompts import as_sentence, check_readable, check_template


@pytest.mark.parametrize("template", [None, DEFAULT_TEMPLATE])
@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("cat", "a photo of a cat."),
        ("lily of the valley", "a photo of a lily of the valley."),
        ("An-12", "a photo of a An-12."),
        ("A380", "a photo of a A380."),
        ("theatre", "a photo of a theatre."),
        ("{}", "a photo of a {}."),
        ("a cat", "a cat"),
        ("An old boot", "An old boot"),
        ("the cartoon cat", "the cartoon cat"),
        ("a photo of a cat", "a photo of a cat"),
        ("itap of a cat.", "itap of a cat."),
        ("a\nb", "a\nb"),
        ("a", "a photo of a a."),
        ("?", "a photo of a ?."),
    ],
)
def test_words_are_put_into_a_sentence_and_sentences_stay(text: str, template: str | None, read: str) -> None:
    assert as_sentence(text, template) == read


@pytest.mark.parametrize("text", ["cat", "a cat", "a photo of a cat.", "{}"])
def test_a_template_of_ones_own_goes_around_every_text(text: str) -> None:
    assert as_sentence(text, "art of {}!") == f"art of {text}!"
    assert as_sentence(text, "{}") == text


@pytest.mark.parametrize("template", ["", "a cat", "{} {}", "{0}", "{} {x}", "{", "{}}", "x" * 300 + "{}"])
def test_what_is_no_template_is_refused(template: str) -> None:
    with pytest.raises(UserError, match="the template"):
        check_template(template)
    assert check_template(" a {}. ") == "a {}."


def test_bytes_of_another_encoding_are_no_text() -> None:
    check_readable("caf\u00e9", "\U0001f600", "")
    for text in ("caf\udce9", "\ud83d"):
        with pytest.raises(UserError, match="is no text"):
            check_readable("a cat", text)
