"""What a task may be called."""

import pytest

from igsp_deploy.errors import UsageError
from igsp_deploy.names import RESERVED, check_task_name


@pytest.mark.parametrize("name", ["a", "0", "shoes", "new-line_2", "x" * 64])
def test_plain_names_are_accepted(name: str) -> None:
    assert check_task_name(name) == name


@pytest.mark.parametrize("name", ["", "Shoes", "-a", "_a", "a b", "a/b", "..", "a.b", "ä", "a\n", "x" * 65])
def test_names_that_are_no_folder_or_key_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match="1 to 64 of a-z"):
        check_task_name(name)


@pytest.mark.parametrize("name", RESERVED)
def test_words_with_a_meaning_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match="meaning of its own"):
        check_task_name(name)
