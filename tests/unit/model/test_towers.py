"""The adapted towers against plain definitions, autograd and open_clip itself."""

import pytest
import torch
from open_clip.transformer import QuickGELU, ResidualAttentionBlock
from torch import Tensor

from igsp_deploy.model.adapter import BlockAdapter, TaskAdapter
from igsp_deploy.model.backbone import Backbone, load_backbone
from igsp_deploy.model.experts import expert_output, folded_delta
from igsp_deploy.model.towers import (
    adapted_block,
    class_embeddings,
    encode_from_text_trunk,
    encode_from_trunk,
    encode_image,
    encode_text,
    text_trunk,
    trunk_tokens,
)


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load_backbone("debug")


def random_adapter(
    backbone: Backbone, *, experts: int = 3, rank: int = 2, blocks: tuple[int, ...] = (1, 2)
) -> TaskAdapter:
    generator = torch.Generator().manual_seed(7)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    def block(width: int, static: bool) -> BlockAdapter:
        return BlockAdapter(
            down=draw(experts * rank, width),
            up=draw(width, experts * rank),
            router_weight=None if static else draw(experts, width),
            router_bias=draw(experts),
            scale=0.7,
        )

    return TaskAdapter(
        vision={b: block(backbone.vision_width, False) for b in blocks},
        text={b: block(backbone.text_width, True) for b in range(backbone.text_depth)},
    )


def test_expert_output_equals_the_sum_over_experts() -> None:
    hidden, gates = torch.randn(4, 5, 8), torch.rand(4, 3)
    down, up = torch.randn(3, 2, 8), torch.randn(3, 8, 2)
    naive = sum(gates[:, k, None, None] * (hidden @ down[k].T @ up[k].T) for k in range(3)) * 0.5
    ours = expert_output(hidden, gates, down.reshape(6, 8), up.permute(1, 0, 2).reshape(8, 6), 0.5)
    torch.testing.assert_close(ours, naive)


def test_static_gates_fold_into_one_matrix() -> None:
    hidden, gates = torch.randn(4, 5, 8), torch.rand(3)
    down, up = torch.randn(6, 8), torch.randn(8, 6)
    folded = hidden @ folded_delta(gates, down, up, 0.5).T
    torch.testing.assert_close(folded, expert_output(hidden, gates[None], down, up, 0.5))


def test_without_a_task_image_and_text_are_bit_equal_to_open_clip(backbone: Backbone) -> None:
    images = torch.randn(3, 3, 32, 32)
    tokens = backbone.tokenize(["a cat", "two dogs on a lawn"])
    with torch.no_grad():
        assert torch.equal(encode_image(backbone, images), backbone.clip.encode_image(images))
        assert torch.equal(encode_text(backbone, tokens), backbone.clip.encode_text(tokens))
        through_trunk = encode_from_trunk(backbone, trunk_tokens(backbone, images, 1), None, 1)
        assert torch.equal(through_trunk, backbone.clip.encode_image(images))


def test_the_adapter_changes_the_features(backbone: Backbone) -> None:
    images = torch.randn(3, 3, 32, 32)
    adapter = random_adapter(backbone)
    assert (encode_image(backbone, images, adapter) - encode_image(backbone, images)).abs().max() > 0.1


def test_features_do_not_depend_on_the_rest_of_the_batch(backbone: Backbone) -> None:
    images = torch.randn(6, 3, 32, 32)
    adapter = random_adapter(backbone)
    with torch.no_grad():
        together = encode_image(backbone, images, adapter)
        alone = torch.cat([encode_image(backbone, image[None], adapter) for image in images])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


def test_the_shared_trunk_gives_the_same_features(backbone: Backbone) -> None:
    images = torch.randn(3, 3, 32, 32)
    adapter = random_adapter(backbone, blocks=(1, 2))
    with torch.no_grad():
        short = encode_from_trunk(backbone, trunk_tokens(backbone, images, 1), adapter, 1)
        torch.testing.assert_close(short, encode_image(backbone, images, adapter))


def test_cropping_the_padding_of_prompts_is_exact(backbone: Backbone) -> None:
    tokens = backbone.tokenize(["a cat", "a photo of two dogs on a lawn", "a sign that says !(!§ and more and more"])
    assert (tokens[2] == 0).nonzero().min() < tokens[2].argmax(), "the last text holds the id of the padding"
    adapter = random_adapter(backbone)
    with torch.no_grad():
        whole, cropped = (encode_text(backbone, tokens, adapter, crop=crop) for crop in (False, True))
    torch.testing.assert_close(cropped, whole, atol=1e-6, rtol=1e-5)


def test_class_embeddings_average_normalised_templates(backbone: Backbone) -> None:
    one, two = (class_embeddings(backbone, None, ["cat", "dog"], [t]) for t in ("a {}", "the {}."))
    both = class_embeddings(backbone, None, ["cat", "dog"], ["a {}", "the {}."])
    torch.testing.assert_close(both, torch.nn.functional.normalize(one + two, dim=-1))


def test_identity_the_routing_probability_gates_the_gradient_of_an_expert(backbone: Backbone) -> None:
    """dL/d theta_c = sum over x of p_c(x) J_c(x)^T g(x), g the gradient at the MLP's output."""
    adapter = random_adapter(backbone).vision[1]
    down, up = adapter.down.requires_grad_(), adapter.up.requires_grad_()
    block = backbone.visual.transformer.resblocks[1]
    x = torch.randn(4, 17, backbone.vision_width)
    y, gates, hidden, delta = adapted_block(block, x, adapter)
    delta.retain_grad()
    y.square().sum().backward()
    g = delta.grad
    assert g is not None
    assert down.grad is not None
    assert up.grad is not None
    for k in range(3):
        rows = slice(2 * k, 2 * k + 2)
        gated = adapter.scale * gates[:, k, None, None] * g
        expected_up = torch.einsum("bnd,bnr->dr", gated, hidden @ down[rows].T)
        expected_down = torch.einsum("bnr,bnd->rd", gated @ up[:, rows], hidden)
        torch.testing.assert_close(up.grad[:, rows], expected_up, atol=1e-3, rtol=1e-4)
        torch.testing.assert_close(down.grad[rows], expected_down, atol=1e-3, rtol=1e-4)


def test_identity_router_descent_is_a_soft_projection_on_the_experts_outputs(backbone: Backbone) -> None:
    """dL/d z_k = p_k <g, E_k(h) - sum_j p_j E_j(h)>, z the router's logits (here through its bias)."""
    adapter = random_adapter(backbone).vision[1]
    bias = adapter.router_bias.requires_grad_()
    block = backbone.visual.transformer.resblocks[1]
    y, gates, hidden, delta = adapted_block(block, torch.randn(1, 17, backbone.vision_width), adapter)
    delta.retain_grad()
    y.square().sum().backward()
    assert delta.grad is not None
    assert bias.grad is not None
    outputs = [
        adapter.scale * hidden @ adapter.down[2 * k : 2 * k + 2].T @ adapter.up[:, 2 * k : 2 * k + 2].T
        for k in range(3)
    ]
    mean = sum(gates[0, k] * outputs[k] for k in range(3))
    expected = torch.stack([gates[0, k] * (delta.grad * (outputs[k] - mean)).sum() for k in range(3)])
    torch.testing.assert_close(bias.grad, expected, atol=1e-3, rtol=1e-4)


def test_a_tower_with_layer_scale_scales_the_experts_with_the_mlp(backbone: Backbone) -> None:
    block = ResidualAttentionBlock(32, 2, ls_init_value=0.1).eval()
    adapter = random_adapter(backbone).vision[1]
    x = torch.randn(2, 5, 32)
    with torch.no_grad():
        y, _, _, delta = adapted_block(block, x, adapter)
        torch.testing.assert_close(y - block(x), block.ls_2(delta), atol=1e-5, rtol=1e-4)
        assert (block.ls_2(delta) - delta).abs().max() > 0.1


@pytest.mark.parametrize("text_first", [0, 1, 2])
@pytest.mark.parametrize("quick", [False, True])
def test_lean_towers_give_the_same_features_and_gradients(quick: bool, text_first: int) -> None:
    backbone = load_backbone("debug")
    if quick:
        for tower in (backbone.visual.transformer, backbone.text.transformer):
            for block in tower.resblocks:
                block.mlp.gelu = QuickGELU()
    plain = random_adapter(backbone)
    adapter = TaskAdapter(vision=plain.vision, text={b: a for b, a in plain.text.items() if b >= text_first})
    leaves = [t for b in (*adapter.vision.values(), *adapter.text.values()) for t in (b.down, b.up, b.router_bias)]
    leaves += [b.router_weight for b in adapter.vision.values() if b.router_weight is not None]
    for leaf in leaves:
        leaf.requires_grad_()
    images, tokens = torch.randn(3, 3, 32, 32), backbone.tokenize(["a cat", "two dogs on a lawn"])
    with torch.no_grad():
        seen = trunk_tokens(backbone, images, 1)
        torch.testing.assert_close(trunk_tokens(backbone, images, 1, lean=True), seen, atol=1e-5, rtol=1e-5)
        read = text_trunk(backbone, tokens, text_first, crop=True, lean=True)
    found = []
    for lean in (False, True):
        vision: dict[int, Tensor] = {}
        image = encode_from_trunk(backbone, seen, adapter, 1, normalize=True, gates_out=vision, lean=lean)
        if lean:
            text = encode_from_text_trunk(backbone, read, adapter, normalize=True, lean=True)
        else:
            text = encode_text(backbone, tokens, adapter, normalize=True)
        loss = (image @ text.T).pow(2).sum() + sum(gate[:, 0].sum() for gate in vision.values())
        found.append((image, text, *torch.autograd.grad(loss, leaves)))
    for ours, theirs in zip(found[1], found[0], strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-4, rtol=2e-4)
    assert all(gradient.abs().max() > 0 for gradient in found[1][2:])
