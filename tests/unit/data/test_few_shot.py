"""Few-shot training sets."""

from pathlib import Path

import numpy as np

from igsp_deploy.data import load_task_data
from igsp_deploy.data.few_shot import take_shots
from igsp_deploy.data.items import Items
from tests.unit.data.conftest import MakeFolder

NAMES = ["a", "b", "c"]


def items(*counts: int) -> Items:
    labels = np.repeat(np.arange(len(counts)), counts)
    return Items([Path(f"{label}/{number}") for number, label in enumerate(labels)], labels.astype(np.int64))


def test_every_class_gives_its_shots_or_all_it_has() -> None:
    assert np.bincount(take_shots(items(20, 3, 9), NAMES, shots=5, seed=0).labels).tolist() == [5, 3, 5]


def test_a_choice_depends_on_seed_and_class_alone() -> None:
    chosen = take_shots(items(20, 20), NAMES, shots=5, seed=0).images
    assert take_shots(items(20, 20), NAMES, shots=5, seed=0).images == chosen
    assert take_shots(items(20, 20), NAMES, shots=5, seed=1).images != chosen
    assert take_shots(items(20), NAMES, shots=5, seed=0).images == chosen[:5]


def test_more_shots_keep_the_fewer_ones() -> None:
    few, many = (set(take_shots(items(20, 20), NAMES, shots=shots, seed=0).images) for shots in (3, 8))
    assert few < many


def test_the_test_images_are_those_of_the_full_task_and_nothing_is_held_out(make_folder: MakeFolder) -> None:
    source = str(make_folder({"cat": 20, "dog": 10}))
    full, few = load_task_data("t", source), load_task_data("t", source, shots=4)
    assert few.test.paths == full.test.paths
    assert np.bincount(few.train.labels).tolist() == [4, 4]
    assert len(few.val) == 0
