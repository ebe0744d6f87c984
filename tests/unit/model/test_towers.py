"""Every family of towers, against open_clip's own call."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from igsp_deploy.model.backbone import Backbone
from igsp_deploy.model.clip import Clip
from igsp_deploy.model.experts import Experts, SiteExperts, Trace
from igsp_deploy.model.loading import load_backbone
from igsp_deploy.model.towers.block import Block
from igsp_deploy.model.towers.opaque import EmbeddingBlock
from igsp_deploy.sites import Site
from tests.small_clips import ALL, configuration, write_clip

TEXTS = ["a cat", "a photo of two dogs on a lawn !"]
NO_CLASS_TOKEN = {"siglip", "vitamin", "convnext", "mobileclip-s", "mobileclip-s-mixing", "resnet"}


@pytest.fixture(scope="module", params=ALL)
def backbone(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return small(request.param, tmp_path_factory.mktemp(request.param))


def small(family: str, folder: Path) -> Backbone:
    found = load_backbone(write_clip(configuration(family, folder / "text"), folder / "clip"))
    found.name = family
    return found


def pixels_for(backbone: Backbone) -> Tensor:
    side = backbone.preprocess.size
    return torch.randn(3, 3, side, side, generator=torch.Generator().manual_seed(1))


def theirs(backbone: Backbone, pixels: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """What open_clip itself gives."""
    return backbone.clip.encode_image(pixels, normalize=True), backbone.clip.encode_text(ids, normalize=True)


def middle(backbone: Backbone) -> list[Site]:
    """Experts from the middle of both towers on."""
    return [("vision", backbone.vision_depth // 2), ("text", backbone.text_depth // 2)]


def experts_of(backbone: Backbone) -> SiteExperts:
    generator = torch.Generator().manual_seed(7)
    found: SiteExperts = {}
    for site in middle(backbone):
        width = backbone.vision_width if site[0] == "vision" else backbone.text_width
        found[site] = Experts(
            down=torch.randn(6, width, generator=generator),
            up=torch.randn(width, 6, generator=generator),
            router_weight=torch.randn(3, width, generator=generator) if site[0] == "vision" else None,
            router_bias=torch.randn(3, generator=generator),
            scale=0.7,
        )
    return found


def test_without_a_task_image_and_text_are_bit_equal_to_open_clip(backbone: Backbone) -> None:
    pixels, ids = pixels_for(backbone), backbone.tokenize(TEXTS)
    clip = Clip(backbone, middle(backbone))
    with torch.no_grad():
        image, text = theirs(backbone, pixels, ids)
        assert torch.equal(clip.embed(clip.vision.trunk(pixels)), image)
        assert torch.equal(clip.embed_text(ids), text)
    assert all(value.isfinite().all() for value in backbone.clip.parameters()), "what nobody uses is left out"
    assert image.shape[1] == text.shape[1] == backbone.embed_dim


def test_the_opened_blocks_are_open_clips_up_to_rounding(backbone: Backbone) -> None:
    pixels, ids = pixels_for(backbone), backbone.tokenize(TEXTS)
    clip = Clip(backbone, middle(backbone), exact=False)
    with torch.no_grad():
        image, text = theirs(backbone, pixels, ids)
        torch.testing.assert_close(clip.embed(clip.vision.trunk(pixels)), image, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(clip.embed_text(clip.crop(ids)), text, atol=1e-5, rtol=1e-4)
        for tower, inputs in ((clip.vision, pixels), (clip.text, ids)):
            x = tower.ends.embed(inputs)
            context = tower.ends.context(x, inputs)
            for block in tower.blocks:
                assert isinstance(block, Block)
                residual, hidden = block.open(x, context)
                assert hidden.shape == (len(inputs), x.shape[1], tower.ends.width)
                opened, x = block.close(residual, block.mlp(hidden)), block.plain(x, context)
                if isinstance(block, EmbeddingBlock):  # which keeps the direction alone
                    opened, x = F.normalize(opened, dim=-1), F.normalize(x, dim=-1)
                torch.testing.assert_close(opened, x, atol=1e-4, rtol=1e-3)


def test_experts_move_both_sides_and_learn(backbone: Backbone) -> None:
    pixels, ids, experts = pixels_for(backbone), backbone.tokenize(TEXTS), experts_of(backbone)
    for exact in (True, False):
        clip, trace = Clip(backbone, middle(backbone), exact=exact), Trace()
        leaves = [t.requires_grad_() for e in experts.values() for t in (e.down, e.up, e.router_bias)]
        tokens = clip.vision.trunk(pixels)
        assert tuple(tokens.shape[1:]) == clip.token_shape
        image, text = clip.embed(tokens, experts, trace=trace), clip.embed_text(ids, experts, trace=trace)
        assert (image - clip.embed(tokens)).abs().max() > 0.01
        assert (text - clip.embed_text(ids)).abs().max() > 0.01
        assert set(trace.gates) == set(experts)
        gradients = torch.autograd.grad((image[:2] * text).sum() + image[2, 0], leaves)
        assert all(gradient.abs().max() > 0 for gradient in gradients)


def test_features_do_not_depend_on_the_rest_of_the_batch(backbone: Backbone) -> None:
    pixels, ids, experts = pixels_for(backbone), backbone.tokenize(TEXTS), experts_of(backbone)
    clip = Clip(backbone, middle(backbone), exact=False)
    with torch.no_grad():
        tokens = clip.vision.trunk(pixels)
        alone = torch.cat([clip.embed(one[None], experts) for one in tokens])
        torch.testing.assert_close(clip.embed(tokens, experts), alone, atol=1e-5, rtol=1e-4)
        alone = torch.cat([clip.embed_text(one[None], experts) for one in ids])
        torch.testing.assert_close(clip.embed_text(ids, experts), alone, atol=1e-5, rtol=1e-4)
        summary = clip.summary(tokens)
    assert summary.shape[1] == backbone.vision_width * (1 if clip.first_block == 0 or not clip.vision.prefix else 2)
    assert (clip.vision.prefix == 0) == (backbone.name in NO_CLASS_TOKEN)
