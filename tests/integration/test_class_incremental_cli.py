"""Class-incremental splits as benchmarks, from the command line, on a small replica."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.unit.data.test_class_parts import cub

QUICK = [
    *("--set", "model.backbone=debug", "--set", "model.pretrained=null", "--set", "model.rank=2"),
    *("--set", "learn.steps=4", "--set", "learn.batch_size=4", "--set", "learn.warmup_steps=1"),
    *("--set", "learn.num_candidates=1", "--set", "model.text_blocks=-1", "--set", "data.num_workers=0"),
]


def test_parts_are_learned_one_after_another_and_measured_over_all_classes(igsp: Any, tmp_path: Path) -> None:
    cub(tmp_path / "CUB_200_2011")
    benchmark = ["--benchmark", "cub200", "--data-root", tmp_path, "--splits", 4]
    refused = igsp("train", tmp_path / "model", *benchmark, *QUICK)
    assert refused.returncode == 1
    assert "expected 200" in refused.stderr
    assert not (tmp_path / "model").exists()
    done = igsp("train", tmp_path / "model", *benchmark, "--accept-differences", *QUICK)
    assert done.returncode == 0, done.stderr
    result = igsp("evaluate", tmp_path / "model", "--out", tmp_path / "e.json")
    assert result.returncode == 0, result.stderr
    values = json.loads((tmp_path / "e.json").read_text())
    assert values["tasks"] == ["part1", "part2", "part3", "part4"]
    assert values["test_images"] == [2, 2, 2, 2]
    head = next(line for line in result.stdout.splitlines() if "Transfer" in line)
    assert [name.strip() for name in head.split("┃")[2:-1]] == [
        "Transfer",
        "Average",
        "Last",
        "Backward transfer",
        "Forgetting",
    ]
    matrix, metrics = values["class_incremental"], values["metrics"]["class_incremental"]
    changes = [matrix[3][i] - matrix[i][i] for i in range(3)]
    assert metrics["backward_transfer"] == pytest.approx(sum(changes) / 3, abs=0.01)
    lost = [max(matrix[j][i] for j in range(i, 3)) - matrix[3][i] for i in range(3)]
    assert metrics["forgetting"] == pytest.approx(sum(lost) / 3, abs=0.01)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--splits", "5"], "belong to --benchmark"),
        (["--benchmark", "mtil", "--splits", "5"], "--splits belongs to the other benchmarks"),
        (["--benchmark", "cifar100", "--order", "2"], "cifar100 has --splits"),
        (["--benchmark", "cifar10"], "--benchmark must be mtil or cifar100 or imagenet-r or cub200"),
    ],
)
def test_options_of_the_other_benchmark_are_refused(igsp: Any, tmp_path: Path, options: list[str], text: str) -> None:
    root = ["--data-root", tmp_path] if "--benchmark" in options else ["--task", "a=b"]
    done = igsp("train", tmp_path / "m", *options, *root)
    assert done.returncode == 2
    assert text in done.stderr
