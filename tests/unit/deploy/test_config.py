"""Settings that are misspelt."""

from typing import Any

import pytest

from igsp_deploy.config import RunConfig, build_config
from igsp_deploy.errors import UsageError


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"learn": {"step": 30}}, "learn.step is not an option; did you mean learn.steps?"),
        ({"lern": {"steps": 30}}, "lern is not an option; did you mean learn?"),
        ({"steps": 30}, "steps is not an option; did you mean learn.steps?"),
        ({"learn": {"zzz": 1}}, "learn.zzz is not an option; known here: batch_size,"),
    ],
)
def test_a_misspelt_setting_is_answered_with_the_one_that_was_meant(values: dict[str, Any], text: str) -> None:
    with pytest.raises(UsageError) as told:
        build_config(RunConfig, values, "--set")
    assert text in str(told.value)
