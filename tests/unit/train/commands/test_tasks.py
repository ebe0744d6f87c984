"""Reading `--task name=SOURCE`."""

import pytest

from igsp_deploy.errors import UsageError
from igsp_train.commands.tasks import parse_tasks


def test_order_is_kept_and_a_source_may_hold_an_equals_sign() -> None:
    assert list(parse_tasks(["b=data/x=1", "a=y"]).items()) == [("b", "data/x=1"), ("a", "y")]


@pytest.mark.parametrize("option", ["shoes", "shoes=", "=data"])
def test_incomplete_options_show_an_example(option: str) -> None:
    with pytest.raises(UsageError, match="--task"):
        parse_tasks([option])


def test_the_same_name_twice_is_refused() -> None:
    with pytest.raises(UsageError, match="shoes was given twice"):
        parse_tasks(["shoes=a", "shoes=b"])
