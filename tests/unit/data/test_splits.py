"""Automatic splits."""

from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from igsp_deploy.data.items import Items
from igsp_deploy.data.splits import split_off


def _items(counts: list[int]) -> tuple[Items, list[str]]:
    labels = np.repeat(np.arange(len(counts)), counts).astype(np.int64)
    names = [f"c{label}" for label in range(len(counts))]
    paths = [Path(f"{names[label]}/{number}") for label, count in enumerate(counts) for number in range(count)]
    return Items(paths, labels), names


@given(
    counts=st.lists(st.integers(1, 30), min_size=1, max_size=5),
    share=st.floats(0, 0.9),
    least=st.integers(2, 6),
    seed=st.integers(-5, 5),
)
def test_a_split_is_a_stratified_partition(counts: list[int], share: float, least: int, seed: int) -> None:
    items, names = _items(counts)
    stays, held_out = split_off(items, names, share=share, least=least, seed=seed, purpose="test")
    assert sorted([*stays.paths, *held_out.paths]) == sorted(items.paths)
    for label, count in enumerate(counts):
        out = int((held_out.labels == label).sum())
        assert out < count
        assert abs(out - share * count) <= 1
        if share > 0 and count >= least:
            assert out >= 1
    again = split_off(items, names, share=share, least=least, seed=seed, purpose="test")
    assert again[1].paths == held_out.paths


def test_a_new_class_does_not_move_the_others() -> None:
    items, names = _items([20, 20])
    alone, _ = _items([20])
    of_both = split_off(items, names, share=0.3, least=2, seed=0, purpose="test")[1]
    of_one = split_off(alone, names[:1], share=0.3, least=2, seed=0, purpose="test")[1]
    assert [p for p in of_both.paths if p.parts[0] == "c0"] == of_one.paths


def test_seed_and_purpose_change_what_is_held_out() -> None:
    items, names = _items([50])
    base = split_off(items, names, share=0.2, least=2, seed=0, purpose="test")[1].paths
    assert split_off(items, names, share=0.2, least=2, seed=1, purpose="test")[1].paths != base
    assert split_off(items, names, share=0.2, least=2, seed=0, purpose="validation")[1].paths != base


def test_classes_of_one_size_are_split_each_in_its_own_way() -> None:
    items, names = _items([50, 50])
    held_out = split_off(items, names, share=0.2, least=2, seed=0, purpose="test")[1]
    numbers = [[path.name for path in held_out.paths if path.parts[0] == name] for name in names]
    assert numbers[0] != numbers[1]
