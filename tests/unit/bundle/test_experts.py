"""The expert table on disk: every expert once, whole or refused."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from igsp_deploy.bundle.experts import BlockUse, ExpertTable
from igsp_deploy.bundle.manifest import ExpertLayout
from igsp_deploy.bundle.stacks import MASKED, SelectorTable, expert_stacks
from igsp_deploy.errors import UserError
from igsp_deploy.sites import Site

LAYOUT = ExpertLayout(rank=2, vision_blocks=(3,), text_blocks=(0,), vision_width=4, text_width=3, routed=True)
SITE: Site = ("vision", 3)
WORDS: Site = ("text", 0)


def table() -> ExpertTable:
    random = np.random.default_rng(0)

    def draw(*shape: int) -> "np.ndarray[tuple[int, ...], np.dtype[np.float32]]":
        return random.normal(size=shape).astype(np.float32)

    def use(*experts: int) -> BlockUse:
        return BlockUse(
            experts=np.array(experts, np.int64), router_weight=draw(len(experts), 4), router_bias=draw(len(experts))
        )

    return ExpertTable(
        down={SITE: draw(3, 2, 4), WORDS: draw(1, 2, 3)},
        up={SITE: draw(3, 4, 2), WORDS: draw(1, 3, 2)},
        tasks=(
            {SITE: use(0, 1), WORDS: BlockUse(experts=np.array([0]), gates=np.array([0.25], np.float32))},
            {SITE: use(1)},
            {SITE: use(2, 0, 1)},
        ),
    )


def test_reading_gives_back_what_was_written(tmp_path: Path) -> None:
    written = table()
    written.write(tmp_path / "e")
    read = ExpertTable.read(tmp_path / "e", LAYOUT, 3)
    for name in ("vision", "text"):
        a, b = expert_stacks(written, LAYOUT, name, [0, 1, 2]), expert_stacks(read, LAYOUT, name, [0, 1, 2])
        assert list(a) == list(b)
        for key in a:
            np.testing.assert_array_equal(a[key], b[key])


def test_a_stack_holds_each_tasks_experts_and_ends_with_plain_clip() -> None:
    made = table()
    stacks = expert_stacks(made, LAYOUT, "vision", [2, 1], np.float16)
    assert {name: stack.shape for name, stack in stacks.items()} == {
        "experts.3.down": (3, 6, 4),
        "experts.3.up": (3, 4, 6),
        "experts.3.router_weight": (3, 3, 4),
        "experts.3.router_bias": (3, 3),
    }
    assert all(stack.dtype == np.float16 for stack in stacks.values())
    down, up = made.down[SITE].astype(np.float16), made.up[SITE].astype(np.float16)
    np.testing.assert_array_equal(stacks["experts.3.down"][0], np.concatenate([down[2], down[0], down[1]]))
    np.testing.assert_array_equal(stacks["experts.3.up"][0], np.concatenate([up[2], up[0], up[1]], axis=1))
    np.testing.assert_array_equal(stacks["experts.3.up"][1, :, :2], up[1])
    assert not stacks["experts.3.up"][1, :, 2:].any()
    assert (stacks["experts.3.router_bias"][1, 1:] == MASKED).all()
    assert not stacks["experts.3.down"][2].any()
    assert not stacks["experts.3.up"][2].any()


def test_static_gates_are_folded_into_the_experts() -> None:
    made = table()
    stacks = expert_stacks(made, LAYOUT, "text", [0, 1])
    assert sorted(stacks) == ["experts.0.down", "experts.0.up"]
    np.testing.assert_allclose(stacks["experts.0.up"][0], 0.25 * made.up[WORDS][0])
    assert not stacks["experts.0.up"][1].any()  # the second task leaves this block plain


def test_half_precision_halves_the_file_and_is_read_into_any(tmp_path: Path) -> None:
    written = table()
    written.write(tmp_path / "full")
    written.write(tmp_path / "half", np.float16)
    full, half = (load_file(tmp_path / name) for name in ("full", "half"))
    assert {value.dtype for name, value in half.items() if not name.endswith(".experts")} == {np.dtype(np.float16)}
    assert sum(value.nbytes for value in half.values()) < 0.65 * sum(value.nbytes for value in full.values())
    read = ExpertTable.read(tmp_path / "half", LAYOUT, 3)
    for name in ("vision", "text"):
        exact, rounded = expert_stacks(written, LAYOUT, name, [0, 2]), expert_stacks(read, LAYOUT, name, [0, 2])
        for key, value in rounded.items():
            assert value.dtype == np.float32
            np.testing.assert_allclose(value, exact[key], rtol=1.1e-3)


def test_a_number_beyond_half_precision_is_not_stored_as_infinity(tmp_path: Path) -> None:
    large = table()
    large.up[SITE][1, 0, 0] = 70000.0
    with pytest.raises(UserError, match=r"experts of vision\.3 hold a number of size 7e\+04, too large for float16"):
        large.write(tmp_path / "half", np.float16)
    assert list(tmp_path.iterdir()) == []


def test_a_task_is_charged_for_what_no_earlier_task_uses() -> None:
    first, second, third = table().task_bytes(2)
    expert, router = 2 * 2 * 4, 4 + 1
    assert first == 2 * (2 * expert + 2 * router + 2 * 2 * 3 + 1)
    assert second == 2 * router
    assert third == 2 * (expert + 3 * router)


def test_a_task_read_alone_is_what_it_is_among_all(tmp_path: Path) -> None:
    path = tmp_path / "e"
    for dtype in (np.float32, np.float16):
        table().write(path, dtype)
        whole = ExpertTable.read(path, LAYOUT, 3)
        for t in range(3):
            alone = ExpertTable.read_task(path, LAYOUT, t)
            assert len(alone.tasks) == 1
            assert alone.sha256(0) == whole.sha256(t)
            for name in ("vision", "text"):
                a, b = expert_stacks(alone, LAYOUT, name, [0]), expert_stacks(whole, LAYOUT, name, [t])
                assert list(a) == list(b)
                for key in a:
                    np.testing.assert_array_equal(a[key], b[key])


def test_a_checksum_covers_all_that_a_task_uses_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "e"
    table().write(path)
    right = [ExpertTable.read_task(path, LAYOUT, t).sha256(0) for t in range(3)]
    assert len(set(right)) == 3
    changes: list[tuple[str, tuple[int, ...], list[int]]] = [
        ("vision.3.down", (0, 1, 3), [0, 2]),
        ("vision.3.up", (1, 0, 0), [0, 1, 2]),
        ("vision.3.up", (2, 3, 1), [2]),
        ("text.0.down", (0, 0, 0), [0]),
        ("task.0.text.0.gates", (0,), [0]),
        ("task.1.vision.3.router_weight", (0, 3), [1]),
        ("task.2.vision.3.router_bias", (1,), [2]),
        ("task.2.vision.3.experts", (0,), [2]),
    ]
    for name, where, changed in changes:
        tensors = load_file(path)
        tensors[name] = tensors[name].copy()
        tensors[name][where] = 1
        save_file(tensors, tmp_path / "changed")
        found = [ExpertTable.read_task(tmp_path / "changed", LAYOUT, t).sha256(0) for t in range(3)]
        assert [t for t in range(3) if found[t] != right[t]] == changed, name


def test_a_checksum_does_not_depend_on_rows_or_on_other_tasks() -> None:
    made = table()
    moved = ExpertTable(
        down={SITE: made.down[SITE][[2, 0, 1]], WORDS: made.down[WORDS]},
        up={SITE: made.up[SITE][[2, 0, 1]], WORDS: made.up[WORDS]},
        tasks=(
            {site: dataclasses.replace(use, experts=np.array([0, 1, 2])) for site, use in made.tasks[2].items()},
            {SITE: BlockUse(experts=np.zeros(0, np.int64))},
        ),
    )
    assert moved.sha256(0) == made.sha256(2)
    assert moved.sha256(1) == ExpertTable(tasks=({},)).sha256(0)  # no expert of a block, and none of its own


def test_experts_of_another_model_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "e"
    table().write(path)
    cases = [
        (dataclasses.replace(LAYOUT, rank=3), r"vision\.3\.down must be \['any', 3, 4\], is \[3, 2, 4\]"),
        (dataclasses.replace(LAYOUT, vision_width=5), "of another model"),
        (dataclasses.replace(LAYOUT, routed=False), r"lacks task\.0\.vision\.3\.gates"),
    ]
    for layout, message in cases:
        with pytest.raises(UserError, match=message):
            ExpertTable.read(path, layout, 3)
        with pytest.raises(UserError, match=message.replace("3, 2, 4", "2, 2, 4")):  # the rows it uses
            ExpertTable.read_task(path, layout, 0)
    tensors = load_file(path)
    tensors["task.1.vision.3.experts"] = np.array([3])
    save_file(tensors, path)
    with pytest.raises(UserError, match="task 1 uses an expert"):
        ExpertTable.read(path, LAYOUT, 3)
    for missing in (3, -1):
        save_file(tensors | {"task.1.vision.3.experts": np.array([missing])}, path)
        with pytest.raises(UserError, match=r"(missing or damaged|uses an expert)"):
            ExpertTable.read_task(path, LAYOUT, 1)
    path.write_bytes(b"no tensors")
    with pytest.raises(UserError, match="missing or damaged"):
        ExpertTable.read(path, LAYOUT, 3)
    with pytest.raises(UserError, match="missing or damaged"):
        ExpertTable.read_task(path, LAYOUT, 1)


def selector() -> SelectorTable:
    return SelectorTable(
        center=np.zeros(2, np.float32),
        whitening=np.eye(2, dtype=np.float32),
        means=np.arange(10, dtype=np.float32).reshape(5, 2),
        class_task=np.array([0, 0, 1, 2, 2]),
        thresholds=np.array([0.0, -1.0, -np.inf], np.float32),
        background=np.array([0.4], np.float32),
    )


def test_a_selector_of_some_tasks_counts_them_anew(tmp_path: Path) -> None:
    selector().write(tmp_path / "s")
    some = SelectorTable.read(tmp_path / "s", 3).only([2, 0])
    assert some.class_task.tolist() == [0, 0, 1, 1]
    assert some.means.tolist() == [[6, 7], [8, 9], [0, 1], [2, 3]]
    assert some.thresholds.tolist() == [-np.inf, 0.0]
    assert some.background == np.float32(0.4)


def test_a_selector_of_format_2_has_no_background(tmp_path: Path) -> None:
    old = dataclasses.replace(selector(), background=None)
    old.write(tmp_path / "s")
    read = SelectorTable.read(tmp_path / "s", 3)
    assert read.background is None
    assert "selector.background" not in read.only([1]).stacks()
    assert "selector.background" not in read.fitting(["selector.squares"]).stacks()
    assert read.fitting(["selector.background"]).stacks()["selector.background"].tolist() == [0.0]
    assert read.fitting(["selector.background"]).fitting([]).background is None
    with pytest.raises(UserError, match="format 2, which know none"):
        selector().fitting(["selector.squares"])


def test_a_selector_up_to_format_5_has_no_squares(tmp_path: Path) -> None:
    now = dataclasses.replace(selector(), squares=np.square(selector().means).sum(1))
    now.write(tmp_path / "s")
    assert SelectorTable.read(tmp_path / "s", 3).only([2]).squares == pytest.approx([6**2 + 7**2, 8**2 + 9**2])
    old = now.fitting(["selector.background"])
    assert old.squares is None
    assert old.only([2, 0]).squares is None
    old.write(tmp_path / "s")
    read = SelectorTable.read(tmp_path / "s", 3)
    assert "selector.squares" not in read.stacks()
    again = read.fitting(["selector.background", "selector.squares"])
    assert again.stacks()["selector.squares"] == pytest.approx(now.squares)
    dataclasses.replace(now, squares=np.zeros(2, np.float32)).write(tmp_path / "s")
    with pytest.raises(UserError, match=r"squares must be \[5\]"):
        SelectorTable.read(tmp_path / "s", 3)


def test_a_selector_in_slots_never_chooses_one_that_is_no_tasks() -> None:
    placed = selector().in_slots([3, 0, 1], 5)
    assert placed.class_task.tolist() == [3, 3, 0, 1, 1]
    assert placed.thresholds.tolist() == [-1.0, -np.inf, np.inf, 0.0, np.inf]
    assert selector().in_slots([0, 1, 2], 3).class_task.tolist() == selector().class_task.tolist()


def test_a_selector_of_other_tasks_is_refused(tmp_path: Path) -> None:
    selector().write(tmp_path / "s")
    with pytest.raises(UserError, match=r"thresholds must be \[2\], is \[3\]"):
        SelectorTable.read(tmp_path / "s", 2)
    dataclasses.replace(selector(), background=np.zeros(2, np.float32)).write(tmp_path / "s")
    with pytest.raises(UserError, match=r"background must be \[1\], is \[2\]"):
        SelectorTable.read(tmp_path / "s", 3)
    dataclasses.replace(selector(), class_task=np.array([0, 0, 0, 2, 2])).write(tmp_path / "s")
    with pytest.raises(UserError, match="each of the 3 tasks"):
        SelectorTable.read(tmp_path / "s", 3)


def test_experts_of_another_kind_or_counted_from_the_end_are_refused(tmp_path: Path) -> None:
    """Also in files whose checksum is right: a bundle may come from anywhere."""
    table().write(tmp_path / "e")
    tensors, name = load_file(tmp_path / "e"), "task.2.vision.3.experts"
    told = r"task\.2\.vision\.3\.experts must be int64"
    for value, message in (
        (np.array([2, -1, 1]), "task 2 uses an expert of vision.3 that is not there"),
        (np.array([[2, 0, 1]]), rf"{told} \['any'\], is int64 \[1, 3\]"),
        (np.array(2), rf"{told} \['any'\], is int64 \[\]"),
        (np.array([2.5, 0.0, 1.0], np.float32), rf"{told} \['any'\], is float32 \[3\]"),
    ):
        save_file({**tensors, name: value}, tmp_path / "e")
        with pytest.raises(UserError, match=message):
            ExpertTable.read(tmp_path / "e", LAYOUT, 3)


def test_a_selector_of_another_kind_is_refused(tmp_path: Path) -> None:
    right = selector()
    for name, value, message in (
        ("center", np.float32(1.0), r"center must be an array of float32, is float32 \[\]"),
        ("means", right.means.astype(np.float64), "means must be an array of float32, is float64"),
        ("class_task", right.class_task.astype(np.float32), "class_task must be an array of int64, is float32"),
        ("class_task", right.class_task[:, None], r"class_task must be \[5\], is \[5, 1\]"),
    ):
        save_file({**right.arrays(), name: np.asarray(value)}, tmp_path / "s")
        with pytest.raises(UserError, match=message):
            SelectorTable.read(tmp_path / "s", 3)


@pytest.mark.parametrize("name", ["vision.3.down", "text.0.up", "task.1.vision.3.router_bias", "task.0.text.0.gates"])
def test_experts_that_are_no_numbers_are_refused(tmp_path: Path, name: str) -> None:
    table().write(tmp_path / "e")
    tensors = load_file(tmp_path / "e")
    for value, message in (
        (tensors[name].astype(np.int32), "must be an array of float32 or float16, is int32"),
        (np.full_like(tensors[name], np.nan), "holds what is no number"),
        (np.full_like(tensors[name], np.inf), "holds what is no number"),
    ):
        save_file({**tensors, name: value}, tmp_path / "e")
        with pytest.raises(UserError, match=rf"e: {name.replace('.', '[.]')} {message}"):
            ExpertTable.read(tmp_path / "e", LAYOUT, 3)


@pytest.mark.parametrize("name", ["center", "whitening", "means", "background", "thresholds"])
def test_a_selector_that_is_no_number_is_refused(tmp_path: Path, name: str) -> None:
    values = selector().arrays()
    save_file({**values, name: np.full_like(values[name], np.nan)}, tmp_path / "s")
    with pytest.raises(UserError, match=f"s: {name} holds what is no number"):
        SelectorTable.read(tmp_path / "s", 3)
