"""Keys given twice in a YAML file."""

from pathlib import Path

import pytest

from igsp_deploy.errors import UsageError
from igsp_deploy.yaml_keys import check_unique_keys


def test_a_task_named_twice_is_refused_with_both_lines(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("learn: {steps: 3}\ntasks:\n  a: x\n  b: y\n  a: z\n")
    with pytest.raises(UsageError, match="'a' is given twice, in lines 3 and 5"):
        check_unique_keys(path)


def test_twice_in_one_line_is_twice(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("tasks: {a: x, a: z}\n")
    with pytest.raises(UsageError, match="'a' is given twice"):
        check_unique_keys(path)


@pytest.mark.parametrize(
    "text", ["", "a: {x: 1}\nb: {x: 2}\n", "- {x: 1}\n- {x: 1}\n", "a: [", "a: &x\n  b: *x\n", "\udcff"]
)
def test_other_files_pass(tmp_path: Path, text: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_bytes(text.encode(errors="surrogateescape"))
    check_unique_keys(path)
    check_unique_keys(tmp_path / "absent.yaml")
