"""Compacted and stacked = the towers as they were learned, sample by sample, for mixed tasks."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from igsp_deploy.bundle.experts import ExpertTable
from igsp_deploy.bundle.manifest import ExpertLayout
from igsp_deploy.bundle.stacks import blank_selector, blank_stacks, expert_stacks
from igsp_deploy.config import RouterInput
from igsp_deploy.model.backbone import Backbone
from igsp_deploy.model.clip import Clip
from igsp_deploy.model.experts import Experts, SiteExperts, StackedExperts
from igsp_deploy.model.fourier import directions, fourier
from igsp_deploy.model.loading import load_backbone
from igsp_deploy.model.selector import Selector, task_statistics
from igsp_deploy.names import PLAIN
from igsp_deploy.sites import Site
from igsp_export.compact import compact, selector_table
from igsp_export.image_graph import ImageGraph, PlainGraph, in_precision, with_merged_branches
from igsp_export.text_graph import TextGraph
from tests.small_clips import FAMILIES, write_clip

RANK = 2
SITES: list[Site] = [("vision", 1), ("vision", 2), ("text", 0), ("text", 1)]


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load_backbone("debug")


def random_experts(backbone: Backbone, count: int, seed: int, router_input: RouterInput) -> SiteExperts:
    generator = torch.Generator().manual_seed(seed)

    def block(width: int, static: bool) -> Experts:
        def draw(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator)

        return Experts(
            down=draw(count * RANK, width) * width**-0.5,
            up=draw(width, count * RANK),
            router_weight=None if static else draw(count, width),
            router_bias=draw(count),
            scale=0.7,
            router_input=router_input,
        )

    found: SiteExperts = {("vision", b): block(backbone.vision_width, router_input == "static") for b in (1, 2)}
    found.update({("text", b): block(backbone.text_width, True) for b in (0, 1)})
    return found


def selector_for(backbone: Backbone) -> Selector:
    statistics, clip = [], Clip(backbone, SITES)
    for seed in (0, 1):
        x = torch.randn(40, 3, 32, 32, generator=torch.Generator().manual_seed(seed)) * (1 + seed) + seed
        with torch.no_grad():
            features = clip.summary(clip.vision.trunk(x))
        statistics.append(task_statistics(features, torch.arange(40) % 2, 2, features[:5]))
    return Selector.fit(statistics, shrinkage=0.1, false_alarm=0.2, background=0.4)


def layout_of(backbone: Backbone, router_input: RouterInput = "class_token") -> ExpertLayout:
    return ExpertLayout(
        rank=RANK,
        vision_blocks=(1, 2),
        text_blocks=(0, 1),
        vision_width=backbone.vision_width,
        text_width=backbone.text_width,
        routed=router_input != "static",
    )


def table_of(*tasks: SiteExperts) -> ExpertTable:
    """Experts that no two tasks share."""
    ids = [
        {site: list(range(10 * t, 10 * t + len(block))) for site, block in experts.items()}
        for t, experts in enumerate(tasks)
    ]
    return compact(tasks, ids, RANK)


def image_graph(
    backbone: Backbone, tasks: list[SiteExperts], selector: Selector, router_input: RouterInput
) -> ImageGraph:
    stacks = expert_stacks(table_of(*tasks), layout_of(backbone, router_input), "vision", range(len(tasks)))
    return ImageGraph(
        backbone, stacks, selector_table(selector), rank=RANK, router_input=router_input, head_features="fourier"
    ).eval()


@pytest.mark.parametrize("router_input", ["class_token", "mean_token", "static"])
def test_a_compacted_block_equals_the_block_it_came_from(backbone: Backbone, router_input: RouterInput) -> None:
    tasks = [random_experts(backbone, count, count, router_input) for count in (3, 1, 2)]
    stacks = expert_stacks(table_of(*tasks), layout_of(backbone, router_input), "vision", [2, 0])
    arrays = {name.split(".")[2]: stack for name, stack in stacks.items() if name.startswith("experts.1.")}
    assert arrays["down"].shape == (3, 3 * RANK, backbone.vision_width)
    stacked, block = StackedExperts(arrays, RANK, router_input), Clip(backbone, SITES, exact=False).vision.blocks[1]
    x = torch.randn(4, 17, backbone.vision_width)
    for position, task in enumerate((2, 0)):
        ours = block(x, stacked.of(torch.full((4,), position)))
        torch.testing.assert_close(ours, block(x, tasks[task]["vision", 1]), atol=1e-5, rtol=1e-5)
    assert torch.equal(block(x, stacked.of(torch.full((4,), 2))), block(x))


@pytest.mark.parametrize("router_input", ["class_token", "mean_token", "static"])
def test_a_mixed_batch_equals_each_task_by_itself(backbone: Backbone, router_input: RouterInput) -> None:
    tasks = [random_experts(backbone, count, count, router_input) for count in (1, 4)]
    selector = selector_for(backbone)
    images = torch.randint(0, 255, (12, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    task = torch.tensor([0, 1, -2, -1, 1, 0, -1, -1, -2, -1, -1, -1])
    with torch.no_grad():
        features, used, scores, summary = image_graph(backbone, tasks, selector, router_input)(images, task)
        clip = Clip(backbone, SITES)
        tokens = clip.trunk(images)
        read = clip.summary(tokens)
        assert torch.equal(used, torch.where(task == -1, selector.choose(read), task))
        torch.testing.assert_close(summary, fourier(read, directions(read.shape[1])), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(scores, selector.scores(read) - selector.thresholds, atol=1e-2, rtol=1e-4)
        for row, t in enumerate(used.tolist()):
            alone = clip.embed(tokens[row : row + 1], {} if t == PLAIN else tasks[t])[0]
            torch.testing.assert_close(features[row], alone, atol=1e-5, rtol=1e-5)


def test_the_plain_graph_is_plain_clip(backbone: Backbone) -> None:
    images = torch.randint(0, 255, (9, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        clip = Clip(backbone, SITES)
        plain = clip.embed(clip.trunk(images))
        torch.testing.assert_close(PlainGraph(backbone).eval()(images), plain, atol=1e-5, rtol=1e-5)


def test_a_background_decides_between_a_task_and_plain_clip_in_the_graph_too(backbone: Backbone) -> None:
    selector = selector_for(backbone)
    table, read = selector_table(selector), torch.randn(50, 2 * backbone.vision_width)
    graph = image_graph(backbone, [random_experts(backbone, 1, 1, "class_token")] * 2, selector, "class_token").selector
    chosen, scores = graph(read)
    assert torch.equal(chosen, selector.choose(read))
    torch.testing.assert_close(scores, selector.scores(read) - selector.thresholds, atol=1e-2, rtol=1e-4)
    table = dataclasses.replace(table, background=np.zeros(1, np.float32))
    without = Selector(**{name: torch.from_numpy(value) for name, value in table.arrays().items()})(read)[1]
    torch.testing.assert_close(without, -selector.distances(read) - selector.thresholds, atol=1e-2, rtol=1e-4)
    assert (scores > without).all()


def test_a_blank_graph_knows_no_task_and_is_plain_clip(backbone: Backbone) -> None:
    layout = layout_of(backbone)
    blank = blank_selector(2 * backbone.vision_width)
    graph = ImageGraph(
        backbone, blank_stacks(layout, "vision"), blank, rank=RANK, router_input="class_token", head_features="fourier"
    ).eval()
    images = torch.randint(0, 255, (3, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        features, used, scores, _ = graph(images, torch.tensor([-1, -2, -1]))
        clip = Clip(backbone, SITES)
        torch.testing.assert_close(features, clip.embed(clip.trunk(images)), atol=1e-5, rtol=1e-5)
    assert used.tolist() == [PLAIN] * 3
    assert (scores < 0).all()


def test_half_precision_leaves_selector_pixels_and_what_heads_read_alone(backbone: Backbone) -> None:
    graph = image_graph(
        backbone, [random_experts(backbone, 2, 2, "class_token")] * 2, selector_for(backbone), "class_token"
    )
    half = in_precision(graph, torch.float16)
    before, after = dict(graph.named_buffers()), dict(half.named_buffers())
    kept = [name for name in before if name.startswith(("selector.", "pixels.", "reader."))]
    assert len(kept) == 10
    assert all(torch.equal(before[name], after[name]) for name in kept)
    assert after["experts.1.down"].dtype == torch.float16
    assert {p.dtype for p in half.parameters()} == {torch.float16}
    assert {p.dtype for p in graph.parameters()} == {torch.float32}


def test_texts_of_mixed_tasks_equal_each_task_by_itself(backbone: Backbone) -> None:
    tasks = [random_experts(backbone, count, count, "class_token") for count in (1, 4)]
    stacks = expert_stacks(table_of(*tasks), layout_of(backbone), "text", [0, 1])
    tokens = backbone.tokenize(["a cat", "two dogs on a lawn", "", "a red wall"])
    task = [0, 1, PLAIN, 1]
    with torch.no_grad():
        embedded = TextGraph(backbone, stacks, rank=RANK).eval()(tokens, torch.tensor(task))
        for row, t in enumerate(task):
            own = {} if t == PLAIN else tasks[t]
            alone = Clip(backbone, SITES).embed_text(tokens[row : row + 1], own)[0]
            torch.testing.assert_close(embedded[row], alone, atol=1e-5, rtol=1e-5)


ODD = [-3, -100, 2, 3, 1000, -(2**63), 2**63 - 1]
"""Numbers that name none of two tasks."""


def test_images_under_a_number_that_names_no_task_get_no_numbers(backbone: Backbone) -> None:
    tasks = [random_experts(backbone, count, count, "class_token") for count in (1, 4)]
    images = torch.randint(0, 255, (len(ODD) + 3, 32, 32, 3), dtype=torch.uint8)
    with torch.no_grad():
        graph = image_graph(backbone, tasks, selector_for(backbone), "class_token")
        features, *_ = graph(images, torch.tensor([*ODD, 0, 1, PLAIN]))
    assert features[: len(ODD)].isnan().all()
    assert features[len(ODD) :].isfinite().all()


def test_texts_of_a_tower_without_experts_are_plain_clips_for_every_task(backbone: Backbone) -> None:
    ids = backbone.tokenize(["a cat"] * 4)
    with torch.no_grad():
        embedded = TextGraph(backbone, {}, rank=RANK).eval()(ids, torch.tensor([0, 7, PLAIN, -3]))
        plain = Clip(backbone, SITES).embed_text(ids)
    torch.testing.assert_close(embedded[:3], plain[:3], atol=1e-5, rtol=1e-5)
    assert embedded[3].isnan().all()


def test_texts_under_a_number_that_names_no_task_get_no_numbers(backbone: Backbone) -> None:
    tasks = [random_experts(backbone, count, count, "class_token") for count in (1, 4)]
    stacks = expert_stacks(table_of(*tasks), layout_of(backbone), "text", [0, 1])
    odd = [*ODD, -1]
    ids = backbone.tokenize(["a cat"] * (len(odd) + 3))
    with torch.no_grad():
        embedded = TextGraph(backbone, stacks, rank=RANK).eval()(ids, torch.tensor([*odd, 0, 1, PLAIN]))
    assert embedded[: len(odd)].isnan().all()
    assert embedded[len(odd) :].isfinite().all()


@torch.no_grad()
@pytest.mark.parametrize("family", ["mobileclip-s", "mobileclip-s-mixing"])
def test_branches_that_only_learning_needs_are_merged(family: str, tmp_path: Path) -> None:
    plain = PlainGraph(load_backbone(write_clip(FAMILIES[family], tmp_path / "clip"))).eval()
    before = {name: value.clone() for name, value in plain.state_dict().items()}
    images = torch.randint(0, 256, (3, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    merged = with_merged_branches(plain)
    torch.testing.assert_close(merged(images), plain(images), rtol=1e-4, atol=1e-5)

    def convolutions(module: nn.Module) -> int:
        return sum(isinstance(part, nn.Conv2d) for part in module.modules())

    assert convolutions(merged) < 0.8 * convolutions(plain)
    assert all(torch.equal(value, before[name]) for name, value in plain.state_dict().items())


def test_a_tower_without_such_branches_is_not_copied(backbone: Backbone) -> None:
    plain = PlainGraph(backbone)
    assert with_merged_branches(plain) is plain
