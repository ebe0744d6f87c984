"""The frozen towers with experts beside their MLPs, against plain definitions, autograd and open_clip itself."""

import ast
import itertools
from pathlib import Path

import pytest
import torch
from open_clip.transformer import QuickGELU, ResidualAttentionBlock
from torch import Tensor, nn

from igsp_deploy.model.backbone import Backbone
from igsp_deploy.model.clip import Clip
from igsp_deploy.model.experts import Experts, SiteExperts, Trace, route
from igsp_deploy.model.loading import load_backbone
from igsp_deploy.model.towers.block import Block
from igsp_deploy.model.towers.openclip import OpenClipBlock
from igsp_deploy.sites import Site

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load_backbone("debug")


def random_experts(
    backbone: Backbone, *, experts: int = 3, rank: int = 2, blocks: tuple[int, ...] = (1, 2), text_first: int = 0
) -> SiteExperts:
    generator = torch.Generator().manual_seed(7)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    def block(width: int, static: bool) -> Experts:
        return Experts(
            down=draw(experts * rank, width),
            up=draw(width, experts * rank),
            router_weight=None if static else draw(experts, width),
            router_bias=draw(experts),
            scale=0.7,
        )

    found: SiteExperts = {("vision", b): block(backbone.vision_width, False) for b in blocks}
    for b in range(backbone.text_depth):
        made = block(backbone.text_width, True)
        if b >= text_first:
            found["text", b] = made
    return found


def block_of(clip: Clip, site: Site) -> Block:
    block = clip.tower(site[0]).blocks[site[1]]
    assert isinstance(block, Block)
    return block


@pytest.mark.parametrize("first", [0, 1, 3])
def test_without_a_task_image_and_text_are_bit_equal_to_open_clip(backbone: Backbone, first: int) -> None:
    pixels, ids = torch.randn(3, 3, 32, 32), backbone.tokenize(["a cat", "two dogs on a lawn"])
    clip = Clip(backbone, [("vision", first), ("text", 1)] if first < 3 else [])
    with torch.no_grad():
        assert torch.equal(clip.embed(clip.vision.trunk(pixels)), backbone.clip.encode_image(pixels, normalize=True))
        assert torch.equal(clip.embed_text(ids), backbone.clip.encode_text(ids, normalize=True))


def test_a_frozen_clip_run_in_fewer_operations_is_open_clips_up_to_rounding(backbone: Backbone) -> None:
    pixels, ids = torch.randn(3, 3, 32, 32), backbone.tokenize(["a cat", "two dogs on a lawn"])
    clip = Clip(backbone, [("vision", 1), ("text", 1)], exact=False)
    with torch.no_grad():
        ours, theirs = clip.embed(clip.vision.trunk(pixels)), backbone.clip.encode_image(pixels, normalize=True)
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
        ours, theirs = clip.embed_text(ids), backbone.clip.encode_text(ids, normalize=True)
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_pixels_are_normalised_as_the_backbone_wants_them(backbone: Backbone) -> None:
    images = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8)
    clip, spec = Clip(backbone, []), backbone.preprocess
    expected = (images.double() / 255 - torch.tensor(spec.mean)) / torch.tensor(spec.std)
    torch.testing.assert_close(clip.pixels(images).double(), expected.permute(0, 3, 1, 2), atol=1e-6, rtol=1e-6)


def test_the_experts_change_the_features(backbone: Backbone) -> None:
    clip, experts = Clip(backbone, [("vision", 1)]), random_experts(backbone)
    tokens = clip.vision.trunk(torch.randn(3, 3, 32, 32))
    assert (clip.embed(tokens, experts) - clip.embed(tokens)).abs().max() > 0.1


def test_features_do_not_depend_on_the_rest_of_the_batch(backbone: Backbone) -> None:
    clip, experts = Clip(backbone, [("vision", 1)]), random_experts(backbone)
    with torch.no_grad():
        tokens = clip.vision.trunk(torch.randn(6, 3, 32, 32))
        together = clip.embed(tokens, experts)
        alone = torch.cat([clip.embed(one[None], experts) for one in tokens])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


def test_where_the_trunk_ends_changes_nothing(backbone: Backbone) -> None:
    pixels, experts = torch.randn(3, 3, 32, 32), random_experts(backbone, blocks=(1, 2))
    short, whole = Clip(backbone, [("vision", 1)]), Clip(backbone, [("vision", 0)])
    with torch.no_grad():
        ours = short.embed(short.vision.trunk(pixels), experts)
        torch.testing.assert_close(ours, whole.embed(whole.vision.trunk(pixels), experts))
        climbed = whole.vision.climb(whole.vision.trunk(pixels), 0, 1)
        assert torch.equal(climbed, short.vision.trunk(pixels))


def test_cropping_the_padding_of_prompts_is_exact(backbone: Backbone) -> None:
    ids = backbone.tokenize(["a cat", "a photo of two dogs on a lawn", "a sign that says !(!§ and more and more"])
    assert (ids[2] == 0).nonzero().min() < ids[2].argmax(), "the last text holds the id of the padding"
    clip, experts = Clip(backbone, [("text", 0)]), random_experts(backbone)
    with torch.no_grad():
        whole, cropped = clip.embed_text(ids, experts), clip.embed_text(clip.crop(ids), experts)
    assert clip.crop(ids).shape[1] < ids.shape[1]
    torch.testing.assert_close(cropped, whole, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("exact", [True, False])
def test_a_factor_a_sample_scales_what_its_experts_add(backbone: Backbone, exact: bool) -> None:
    clip, experts = Clip(backbone, [("vision", 1)], exact=exact), random_experts(backbone)
    with torch.no_grad():
        tokens = clip.vision.trunk(torch.randn(3, 3, 32, 32))
        found = clip.embed(tokens, experts, w=torch.tensor([0.0, 1.0, 0.5]))
        torch.testing.assert_close(found[0], clip.embed(tokens)[0], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(found[1], clip.embed(tokens, experts)[1], atol=1e-6, rtol=1e-6)
        for block in experts.values():
            block.scale *= 0.5
        torch.testing.assert_close(found[2], clip.embed(tokens, experts)[2], atol=1e-5, rtol=1e-5)


def test_a_router_reads_the_class_token_the_mean_of_the_others_or_nothing() -> None:
    hidden = torch.randn(4, 5, 8)
    for router_input, prefix, expected in (
        ("class_token", 1, hidden[:, 0]),
        ("mean_token", 1, hidden[:, 1:].mean(1)),
        ("class_token", 0, hidden.mean(1)),
        ("mean_token", 0, hidden.mean(1)),
    ):
        found = route(hidden, router_input, prefix)  # type: ignore[arg-type]
        assert found is not None
        torch.testing.assert_close(found, expected)
    assert route(hidden, "static", 1) is None


def test_the_selector_reads_two_normalised_tokens_or_one_where_the_class_token_is_the_same(backbone: Backbone) -> None:
    tokens = 3.0 + 5.0 * torch.randn(4, 17, 32)
    both = Clip(backbone, [("vision", 1)]).summary(tokens)
    alone = Clip(backbone, [("vision", 0)]).summary(tokens)
    assert both.shape == (4, 64)
    assert torch.equal(both[:, 32:], alone)
    for part, read in ((both[:, :32], tokens[:, 0]), (alone, tokens[:, 1:].mean(1))):
        centred = read - read.mean(1, keepdim=True)
        torch.testing.assert_close(part, centred / centred.std(1, unbiased=False, keepdim=True), atol=1e-4, rtol=1e-4)


def test_identity_the_routing_probability_gates_the_gradient_of_an_expert(backbone: Backbone) -> None:
    """dL/d theta_c = sum over x of p_c(x) J_c(x)^T g(x), g the gradient at the MLP's output."""
    block, experts = block_of(Clip(backbone, []), ("vision", 1)), random_experts(backbone)["vision", 1]
    down, up = experts.down.requires_grad_(), experts.up.requires_grad_()
    residual, hidden = block.open(torch.randn(4, 17, backbone.vision_width))
    gates = experts.gates(hidden[:, 0])
    delta = experts.delta(hidden, gates)
    delta.retain_grad()
    block.close(residual, block.mlp(hidden) + delta).square().sum().backward()
    g = delta.grad
    assert g is not None
    assert down.grad is not None
    assert up.grad is not None
    for k in range(3):
        rows = slice(2 * k, 2 * k + 2)
        gated = experts.scale * gates[:, k, None, None] * g
        expected_up = torch.einsum("bnd,bnr->dr", gated, hidden @ down[rows].T)
        expected_down = torch.einsum("bnr,bnd->rd", gated @ up[:, rows], hidden)
        torch.testing.assert_close(up.grad[:, rows], expected_up, atol=1e-3, rtol=1e-4)
        torch.testing.assert_close(down.grad[rows], expected_down, atol=1e-3, rtol=1e-4)


def test_identity_router_descent_is_a_soft_projection_on_the_experts_outputs(backbone: Backbone) -> None:
    """dL/d z_k = p_k <g, E_k(h) - sum_j p_j E_j(h)>, z the router's logits (here through its bias)."""
    block, experts = block_of(Clip(backbone, []), ("vision", 1)), random_experts(backbone)["vision", 1]
    bias = experts.router_bias.requires_grad_()
    residual, hidden = block.open(torch.randn(1, 17, backbone.vision_width))
    gates = experts.gates(hidden[:, 0])
    delta = experts.delta(hidden, gates)
    delta.retain_grad()
    block.close(residual, block.mlp(hidden) + delta).square().sum().backward()
    assert delta.grad is not None
    assert bias.grad is not None
    outputs = [
        experts.scale * hidden @ experts.down[2 * k : 2 * k + 2].T @ experts.up[:, 2 * k : 2 * k + 2].T
        for k in range(3)
    ]
    mean = sum(gates[0, k] * outputs[k] for k in range(3))
    expected = torch.stack([gates[0, k] * (delta.grad * (outputs[k] - mean)).sum() for k in range(3)])
    torch.testing.assert_close(bias.grad, expected, atol=1e-3, rtol=1e-4)


def test_a_tower_with_layer_scale_scales_the_experts_with_the_mlp(backbone: Backbone) -> None:
    inner = ResidualAttentionBlock(32, 2, ls_init_value=0.1).eval()
    block, experts = OpenClipBlock(inner, ("vision", 1), prefix=1, exact=False), random_experts(backbone)["vision", 1]
    x = torch.randn(2, 5, 32)
    with torch.no_grad():
        _, hidden = block.open(x)
        delta = experts.delta(hidden, experts.gates(hidden[:, 0]))
        torch.testing.assert_close(block(x, experts) - block(x), inner.ls_2(delta), atol=1e-5, rtol=1e-4)
        assert (inner.ls_2(delta) - delta).abs().max() > 0.1


@pytest.mark.parametrize("text_first", [0, 1, 2])
@pytest.mark.parametrize("quick", [False, True])
def test_learning_computes_what_open_clips_own_modules_do_and_their_gradients(quick: bool, text_first: int) -> None:
    """The whole towers written out with open_clip's blocks, beside the ones that learning runs."""
    backbone = load_backbone("debug")
    if quick:
        for block in itertools.chain(backbone.clip.visual.transformer.resblocks, backbone.clip.transformer.resblocks):
            block.mlp.gelu = QuickGELU()
    experts = random_experts(backbone, text_first=text_first)
    leaves = [t for e in experts.values() for t in (e.down, e.up, e.router_bias, e.router_weight) if t is not None]
    for leaf in leaves:
        leaf.requires_grad_()
    pixels, ids = torch.randn(3, 3, 32, 32), backbone.tokenize(["a cat", "two dogs on a lawn"])
    clip = Clip(backbone, experts, exact=False)
    found = []
    for lean in (False, True):
        trace = Trace()
        if lean:
            with torch.no_grad():
                tokens, short = clip.vision.trunk(pixels), clip.crop(ids)
                prompts = clip.text.trunk(short)
            image = clip.embed(tokens, experts, trace=trace)
            text = clip.embed_text(short, experts, trunk=prompts, trace=trace)
        else:
            image = written_out(backbone, "vision", backbone.clip.visual._embeds(pixels), experts, trace)
            image = backbone.clip.visual._pool(image)[0] @ backbone.clip.visual.proj
            x = backbone.clip.token_embedding(ids) + backbone.clip.positional_embedding
            text = backbone.clip.ln_final(written_out(backbone, "text", x, experts, trace))
            text = text[torch.arange(2), ids.argmax(1)] @ backbone.clip.text_projection
            image, text = nn.functional.normalize(image, dim=-1), nn.functional.normalize(text, dim=-1)
        loss = (image @ text.T).pow(2).sum() + sum(gate[:, 0].sum() for gate in trace.gates.values())
        assert set(trace.gates) == set(trace.hidden) == set(experts)
        found.append((image, text, *torch.autograd.grad(loss, leaves)))
    for ours, theirs in zip(found[1], found[0], strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-4, rtol=2e-4)
    assert all(gradient.abs().max() > 0 for gradient in found[1][2:])


def written_out(backbone: Backbone, tower: str, x: Tensor, experts: SiteExperts, trace: Trace) -> Tensor:
    """A tower's blocks by open_clip's own modules."""
    blocks = (backbone.clip.visual if tower == "vision" else backbone.clip).transformer.resblocks
    for number, block in enumerate(blocks):
        site: Site = ("vision", number) if tower == "vision" else ("text", number)
        x = x + block.ls_1(
            block.attention(block.ln_1(x), attn_mask=None if tower == "vision" else backbone.clip.attn_mask)
        )
        hidden = block.ln_2(x)
        y = block.mlp(hidden)
        if site in experts:
            trace.gates[site] = experts[site].gates(hidden[:, 0] if tower == "vision" else None)
            trace.hidden[site] = hidden
            y = y + experts[site].delta(hidden, trace.gates[site])
        x = x + block.ls_2(y)
    return x


INSIDES = {
    *("visual", "resblocks", "ln_1", "ln_2", "ls_1", "ls_2", "ln_post", "ln_final", "ln_pre", "c_fc", "c_proj"),
    *("in_proj_weight", "in_proj_bias", "attn_mask", "class_embedding", "positional_embedding", "token_embedding"),
    *("text_projection", "text_global_pool", "text_pool_type", "pool_type", "eos_id", "text_eos_id", "_embeds"),
}


def test_few_files_know_how_open_clips_models_are_made() -> None:
    """What makes open_clip models (the small backbones and their pretraining) has to, and is no user of one."""
    makers = ("igsp_deploy/backbones/", "train/igsp_train/research/pretrain/")
    found: dict[str, set[str]] = {}
    for folder in ("igsp_deploy", "train", "export", "serve"):
        for path in (ROOT / folder).rglob("*.py"):
            name = path.relative_to(ROOT).as_posix()
            nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
            known = {node.attr for node in nodes if isinstance(node, ast.Attribute)} & INSIDES
            if known and not name.startswith(makers):
                found[name] = known
    seam = {name for name in found if name.startswith("igsp_deploy/model/towers/")}
    assert seam
    assert set(found) - seam == {f"igsp_deploy/model/{name}.py" for name in ("backbone", "loading")}, found
