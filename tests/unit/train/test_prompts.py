"""Classes that CLIP's text tower reads alike are refused before anything is learned."""

import numpy as np
import pytest

from igsp_deploy.data import TaskData
from igsp_deploy.data.items import Items
from igsp_deploy.errors import UserError
from igsp_deploy.model.loading import load_backbone
from igsp_train.prompts import check_prompts

NONE = Items([], np.zeros(0, dtype=np.int64))
LONG = "very " * 40


def _task(*names: str, templates: tuple[str, ...] = ("a photo of a {}.",)) -> TaskData:
    return TaskData("t", list(names), list(names), list(templates), NONE, NONE, NONE)


@pytest.mark.parametrize("backbone", ["debug", "nano"])
@pytest.mark.parametrize(
    ("one", "other"),
    [
        (f"{LONG} old boot", f"{LONG} new boot"),
        ("caf\u00e9", "cafe\u0301"),
        ("t-shirt", "t - shirt"),
        ("a  b", "a b"),
        ("fish &amp; chips", "fish & chips"),
        ("\uff21\uff22\uff23", "ABC"),
        ("\u201cquoted\u201d", '"quoted"'),
    ],
)
def test_two_classes_of_the_same_tokens_are_refused_by_name(backbone: str, one: str, other: str) -> None:
    with pytest.raises(UserError, match="CLIP cannot tell") as caught:
        check_prompts(_task("cat", one, other), load_backbone(backbone), lambda _: None)
    for name in (one, other):
        assert name[-8:] in str(caught.value)


def test_a_cut_prompt_is_said_once() -> None:
    said: list[str] = []
    names = (f"boot {LONG}", f"shoe {LONG}", "cat")
    check_prompts(_task(*names, templates=("{}", "a photo of a {}.")), load_backbone("debug"), said.append)
    assert len(said) == 1
    assert said[0].startswith("4 prompts fill the")


def test_prompts_that_fit_say_nothing() -> None:
    said: list[str] = []
    check_prompts(_task("cat", "dog"), load_backbone("debug"), said.append)
    assert said == []
