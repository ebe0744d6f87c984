"""Compacted and stacked = the towers as they were learned, sample by sample, for mixed tasks."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor

from igsp_deploy.bundle.experts import ExpertTable
from igsp_deploy.bundle.manifest import ExpertLayout
from igsp_deploy.bundle.stacks import blank_selector, blank_stacks, expert_stacks
from igsp_deploy.config import RouterInput, SelectorPlace
from igsp_deploy.model.adapter import BlockAdapter, TaskAdapter
from igsp_deploy.model.backbone import Backbone, load_backbone
from igsp_deploy.model.selector import Selector, selector_features, task_statistics
from igsp_deploy.model.towers import adapted_block, encode_image, encode_text, normalize_images, trunk_tokens
from igsp_deploy.names import PLAIN
from igsp_deploy.sites import Site
from igsp_export.blocks import StackedExperts
from igsp_export.compact import compact, selector_table
from igsp_export.image_graph import ImageGraph, PlainGraph, SelectGraph, SelectorGraph
from igsp_export.text_graph import TextGraph

RANK = 2


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load_backbone("debug")


def random_adapter(backbone: Backbone, experts: int, seed: int, router_input: RouterInput) -> TaskAdapter:
    generator = torch.Generator().manual_seed(seed)

    def block(width: int, static: bool) -> BlockAdapter:
        def draw(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator)

        return BlockAdapter(
            down=draw(experts * RANK, width) * width**-0.5,
            up=draw(width, experts * RANK),
            router_weight=None if static else draw(experts, width),
            router_bias=draw(experts),
            scale=0.7,
            router_input=router_input,
        )

    static = router_input == "static"
    return TaskAdapter(
        vision={b: block(backbone.vision_width, static) for b in (1, 2)},
        text={b: block(backbone.text_width, True) for b in (0, 1)},
    )


def selector_for(backbone: Backbone, place: SelectorPlace) -> Selector:
    statistics = []
    for seed in (0, 1):
        x = torch.randn(40, 3, 32, 32, generator=torch.Generator().manual_seed(seed)) * (1 + seed) + seed
        with torch.no_grad():
            features = selector_features(backbone, trunk_tokens(backbone, x, 1), 1, place)
        statistics.append(task_statistics(features, torch.arange(40) % 2, 2, features[:5]))
    return Selector(statistics, shrinkage=0.1, false_alarm=0.2, background=0.4)


def layout_of(backbone: Backbone, router_input: RouterInput = "class_token") -> ExpertLayout:
    return ExpertLayout(
        rank=RANK,
        vision_blocks=(1, 2),
        text_blocks=(0, 1),
        vision_width=backbone.vision_width,
        text_width=backbone.text_width,
        routed=router_input != "static",
    )


def table_of(*adapters: TaskAdapter) -> ExpertTable:
    """Experts that no two tasks share."""
    ids, start = [], 0
    for adapter in adapters:
        own: dict[Site, list[int]] = {}
        for b, block in adapter.vision.items():
            own["vision", b] = list(range(start, start + len(block.router_bias)))
        for b, block in adapter.text.items():
            own["text", b] = list(range(start, start + len(block.router_bias)))
        ids.append(own)
        start += 10
    return compact(adapters, ids, RANK)


def image_graph(backbone: Backbone, adapters: list[TaskAdapter], selector: Selector | None, router_input: RouterInput):  # type: ignore[no-untyped-def]
    stacks = expert_stacks(table_of(*adapters), layout_of(backbone, router_input), "vision", range(len(adapters)))
    table = selector_table(selector) if selector is not None else None
    return ImageGraph(backbone, stacks, table, rank=RANK, router_input=router_input).eval()


@pytest.mark.parametrize("router_input", ["class_token", "mean_token", "static"])
def test_a_compacted_block_equals_the_block_it_came_from(backbone: Backbone, router_input: RouterInput) -> None:
    adapters = [random_adapter(backbone, count, count, router_input) for count in (3, 1, 2)]
    stacks = expert_stacks(table_of(*adapters), layout_of(backbone, router_input), "vision", [2, 0])
    arrays = {name.split(".")[2]: stack for name, stack in stacks.items() if name.startswith("experts.1.")}
    assert arrays["down"].shape == (3, 3 * RANK, backbone.vision_width)
    experts = StackedExperts(arrays, RANK, router_input)
    x = torch.randn(4, 17, backbone.vision_width)
    for position, task in enumerate((2, 0)):
        _, _, hidden, delta = adapted_block(backbone.visual.transformer.resblocks[1], x, adapters[task].vision[1])
        torch.testing.assert_close(experts(hidden, torch.full((4,), position)), delta, atol=1e-5, rtol=1e-5)
    assert experts(hidden, torch.full((4,), 2)).abs().max() == 0


@pytest.mark.parametrize("router_input", ["class_token", "mean_token", "static"])
def test_a_mixed_batch_equals_each_task_by_itself(backbone: Backbone, router_input: RouterInput) -> None:
    adapters = [random_adapter(backbone, count, count, router_input) for count in (1, 4)]
    selector = selector_for(backbone, "trunk")
    images = torch.randint(0, 255, (12, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    task = torch.tensor([0, 1, -2, -1, 1, 0, -1, -1, -2, -1, -1, -1])
    with torch.no_grad():
        features, used, scores = image_graph(backbone, adapters, selector, router_input)(images, task)
        x = normalize_images(images, backbone.preprocess.mean, backbone.preprocess.std)
        read = selector_features(backbone, trunk_tokens(backbone, x, 1), 1, "trunk")
        assert torch.equal(used, torch.where(task == -1, selector.choose(read), task))
        torch.testing.assert_close(scores, selector.scores(read) - selector.thresholds, atol=1e-2, rtol=1e-4)
        for row, t in enumerate(used.tolist()):
            adapter = None if t == PLAIN else adapters[t]
            alone = encode_image(backbone, x[row : row + 1], adapter, normalize=True)[0]
            torch.testing.assert_close(features[row], alone, atol=1e-5, rtol=1e-5)


def test_the_first_of_two_passes_gives_plain_clip_and_the_choice(backbone: Backbone) -> None:
    selector = selector_for(backbone, "embedding")
    images = torch.randint(0, 255, (9, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        features, chosen, scores = SelectGraph(backbone, selector_table(selector)).eval()(images)
        x = normalize_images(images, backbone.preprocess.mean, backbone.preprocess.std)
        plain = encode_image(backbone, x, None, normalize=True)
        torch.testing.assert_close(features, plain, atol=1e-5, rtol=1e-5)
        assert torch.equal(chosen, selector.choose(plain))
        torch.testing.assert_close(scores, selector.scores(plain) - selector.thresholds, atol=1e-2, rtol=1e-4)
        assert torch.equal(PlainGraph(backbone).eval()(images), features)
        adapters = [random_adapter(backbone, 2, 2, "class_token")]
        second = image_graph(backbone, adapters, None, "class_token")(images, torch.tensor([0, PLAIN] * 4 + [0]))
        torch.testing.assert_close(second[1], features[1], atol=1e-5, rtol=1e-5)
        alone = encode_image(backbone, x[:1], adapters[0], normalize=True)
        torch.testing.assert_close(second[:1], alone, atol=1e-5, rtol=1e-5)


def test_a_background_decides_between_a_task_and_plain_clip_in_the_graph_too(backbone: Backbone) -> None:
    selector = selector_for(backbone, "trunk")
    table, read = selector_table(selector), torch.randn(50, 2 * backbone.vision_width)
    chosen, scores = SelectorGraph(table)(read)
    assert torch.equal(chosen, selector.choose(read))
    torch.testing.assert_close(scores, selector.scores(read) - selector.thresholds, atol=1e-2, rtol=1e-4)
    without = SelectorGraph(dataclasses.replace(table, background=np.zeros(1, np.float32)))(read)[1]
    torch.testing.assert_close(without, -selector.distances(read) - selector.thresholds, atol=1e-2, rtol=1e-4)
    assert (scores > without).all()


def test_a_blank_graph_knows_no_task_and_is_plain_clip(backbone: Backbone) -> None:
    layout = layout_of(backbone)
    blank = blank_selector(2 * backbone.vision_width)
    graph = ImageGraph(backbone, blank_stacks(layout, "vision"), blank, rank=RANK, router_input="class_token").eval()
    images = torch.randint(0, 255, (3, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        features, used, scores = graph(images, torch.tensor([-1, -2, -1]))
        x = normalize_images(images, backbone.preprocess.mean, backbone.preprocess.std)
        torch.testing.assert_close(features, encode_image(backbone, x, None, normalize=True), atol=1e-5, rtol=1e-5)
    assert used.tolist() == [PLAIN] * 3
    assert (scores < 0).all()


def test_half_precision_leaves_the_selector_and_the_pixels_alone(backbone: Backbone) -> None:
    graph = image_graph(
        backbone, [random_adapter(backbone, 2, 2, "class_token")] * 2, selector_for(backbone, "trunk"), "class_token"
    )
    half = graph.in_precision(torch.float16)
    before, after = dict(graph.named_buffers()), dict(half.named_buffers())
    kept = [name for name in before if name.startswith(("selector.", "pixel_"))]
    assert len(kept) == 8
    assert all(torch.equal(before[name], after[name]) for name in kept)
    assert after["experts.1.down"].dtype == half.visual.class_embedding.dtype == torch.float16
    assert graph.visual.class_embedding.dtype == torch.float32


def test_texts_of_mixed_tasks_equal_each_task_by_itself(backbone: Backbone) -> None:
    adapters = [random_adapter(backbone, count, count, "class_token") for count in (1, 4)]
    stacks = expert_stacks(table_of(*adapters), layout_of(backbone), "text", [0, 1])
    tokens = backbone.tokenize(["a cat", "two dogs on a lawn", "", "a red wall"])
    task = [0, 1, PLAIN, 1]
    with torch.no_grad():
        embedded = TextGraph(backbone, stacks, rank=RANK).eval()(tokens, torch.tensor(task))
        for row, t in enumerate(task):
            adapter = None if t == PLAIN else adapters[t]
            alone = encode_text(backbone, tokens[row : row + 1], adapter, normalize=True)[0]
            torch.testing.assert_close(embedded[row], alone, atol=1e-5, rtol=1e-5)


ODD = [-3, -100, 2, 3, 1000, -(2**63), 2**63 - 1]
"""Numbers that name none of two tasks."""


@pytest.mark.parametrize("place", ["trunk", "embedding"])
def test_images_under_a_number_that_names_no_task_get_no_numbers(backbone: Backbone, place: SelectorPlace) -> None:
    adapters = [random_adapter(backbone, count, count, "class_token") for count in (1, 4)]
    selector = selector_for(backbone, place) if place == "trunk" else None
    odd = ODD if place == "trunk" else [*ODD, -1]  # another graph chooses
    images = torch.randint(0, 255, (len(odd) + 3, 32, 32, 3), dtype=torch.uint8)
    with torch.no_grad():
        output = image_graph(backbone, adapters, selector, "class_token")(images, torch.tensor([*odd, 0, 1, PLAIN]))
    features = output[0] if place == "trunk" else output
    assert features[: len(odd)].isnan().all()
    assert features[len(odd) :].isfinite().all()


def test_texts_under_a_number_that_names_no_task_get_no_numbers(backbone: Backbone) -> None:
    adapters = [random_adapter(backbone, count, count, "class_token") for count in (1, 4)]
    stacks = expert_stacks(table_of(*adapters), layout_of(backbone), "text", [0, 1])
    odd = [*ODD, -1]
    ids = backbone.tokenize(["a cat"] * (len(odd) + 3))
    with torch.no_grad():
        embedded = TextGraph(backbone, stacks, rank=RANK).eval()(ids, torch.tensor([*odd, 0, 1, PLAIN]))
    assert embedded[: len(odd)].isnan().all()
    assert embedded[len(odd) :].isfinite().all()
