"""Arrays of any layout are written as what they hold."""

import ast
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import load
from safetensors.torch import save_file

from igsp_deploy.bundle.arrays import pack_arrays, read_arrays
from igsp_deploy.errors import UserError

ROOT = Path(__file__).parents[3]
ROWS = np.arange(24, dtype=np.float32).reshape(4, 6)


@pytest.mark.parametrize(
    "array",
    [ROWS, ROWS[::-1], ROWS[:, ::-1], ROWS.T, ROWS[:, 1:4], ROWS[::2], np.broadcast_to(ROWS[0], (3, 6)), ROWS[:0]],
    ids=["rows", "reversed", "mirrored", "transposed", "columns", "every other row", "broadcast", "none"],
)
def test_what_is_read_is_what_was_given(array: NDArray[np.float32]) -> None:
    np.testing.assert_array_equal(load(pack_arrays({"a": array}))["a"], array)


def test_a_type_that_numpy_has_not_is_refused(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(2).to(torch.float8_e4m3fn)}, tmp_path / "classes.safetensors")
    with pytest.raises(UserError, match=r"classes\.safetensors is missing or damaged"):
        read_arrays(tmp_path / "classes.safetensors")


def test_no_other_module_of_the_product_writes_numpy_arrays() -> None:
    writers = []
    for part in ("igsp_deploy", "train", "export", "serve"):
        for path in (ROOT / part).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.ImportFrom) and node.module == "safetensors.numpy":
                    writers += [path.name for alias in node.names if alias.name.startswith("save")]
    assert writers == ["arrays.py"]
