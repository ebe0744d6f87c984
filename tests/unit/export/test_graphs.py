"""Compacted and stacked = the towers as they were learned, sample by sample, for mixed tasks."""

import pytest
import torch
from torch import Tensor

from igsp_deploy.config import RouterInput, SelectorPlace
from igsp_deploy.model.adapter import BlockAdapter, TaskAdapter
from igsp_deploy.model.backbone import Backbone, load_backbone
from igsp_deploy.model.selector import PLAIN, Selector, selector_features, task_statistics
from igsp_deploy.model.towers import adapted_block, encode_image, encode_text, normalize_images, trunk_tokens
from igsp_export.compact import compact_block, stack_tasks
from igsp_export.image_graph import ImageGraph
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
    return Selector(statistics, shrinkage=0.1, false_alarm=0.2)


@pytest.mark.parametrize("router_input", ["class_token", "mean_token", "static"])
def test_a_compacted_block_equals_the_block_it_came_from(backbone: Backbone, router_input: RouterInput) -> None:
    adapter = random_adapter(backbone, 3, 5, router_input).vision[1]
    x = torch.randn(4, 17, backbone.vision_width)
    _, _, hidden, delta = adapted_block(backbone.visual.transformer.resblocks[1], x, adapter)
    features = hidden[:, 1:].mean(1) if router_input == "mean_token" else hidden[:, 0]
    torch.testing.assert_close(compact_block(adapter).delta(hidden, features), delta, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("router_input", ["class_token", "mean_token", "static"])
@pytest.mark.parametrize("place", ["trunk", "embedding"])
def test_a_mixed_batch_equals_each_task_by_itself(
    backbone: Backbone, router_input: RouterInput, place: SelectorPlace
) -> None:
    adapters = [random_adapter(backbone, count, count, router_input) for count in (1, 4)]
    vision, _ = stack_tasks(adapters, RANK)
    selector = selector_for(backbone, place)
    graph = ImageGraph(backbone, vision, selector, first_block=1, place=place, router_input=router_input).eval()
    images = torch.randint(0, 255, (12, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    task = torch.tensor([0, 1, -2, -1, 1, 0, -1, -1, -2, -1, -1, -1])
    with torch.no_grad():
        features, used, scores = graph(images, task)
        x = normalize_images(images, backbone.preprocess.mean, backbone.preprocess.std)
        read = selector_features(backbone, trunk_tokens(backbone, x, 1), 1, place)
        assert torch.equal(used, torch.where(task == -1, selector.choose(read), task))
        torch.testing.assert_close(scores, selector.scores(read) - selector.thresholds, atol=1e-2, rtol=1e-4)
        for row, t in enumerate(used.tolist()):
            adapter = None if t == PLAIN else adapters[t]
            alone = encode_image(backbone, x[row : row + 1], adapter, normalize=True)[0]
            torch.testing.assert_close(features[row], alone, atol=1e-5, rtol=1e-5)


def test_texts_of_mixed_tasks_equal_each_task_by_itself(backbone: Backbone) -> None:
    adapters = [random_adapter(backbone, count, count, "class_token") for count in (1, 4)]
    _, text = stack_tasks(adapters, RANK)
    tokens = backbone.tokenize(["a cat", "two dogs on a lawn", "", "a red wall"])
    task = [0, 1, PLAIN, 1]
    with torch.no_grad():
        embedded = TextGraph(backbone, text).eval()(tokens, torch.tensor(task))
        for row, t in enumerate(task):
            adapter = None if t == PLAIN else adapters[t]
            alone = encode_text(backbone, tokens[row : row + 1], adapter, normalize=True)[0]
            torch.testing.assert_close(embedded[row], alone, atol=1e-5, rtol=1e-5)


def test_a_block_in_which_no_task_kept_an_expert_stays_plain(backbone: Backbone) -> None:
    first, second = (random_adapter(backbone, count, count, "class_token") for count in (2, 3))
    empty = {
        tower: BlockAdapter(
            down=torch.zeros(0, width),
            up=torch.zeros(width, 0),
            router_weight=torch.zeros(0, width) if tower == "vision" else None,
            router_bias=torch.zeros(0),
            scale=1.0,
        )
        for tower, width in (("vision", backbone.vision_width), ("text", backbone.text_width))
    }
    adapters = [
        TaskAdapter(vision={1: empty["vision"], 2: first.vision[2]}, text={0: empty["text"], 1: first.text[1]}),
        TaskAdapter(vision={1: empty["vision"], 2: empty["vision"]}, text={1: second.text[1]}),
    ]
    vision, text = stack_tasks(adapters, RANK)
    assert (list(vision), list(text)) == ([2], [1])
    assert vision[2].down[0].abs().sum() > 0
    assert vision[2].down[1:].abs().sum() == 0
