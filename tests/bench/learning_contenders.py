"""What `learning_speed` compares: one optimiser step of each way to adapt ViT-B/16 to a task, on the same inputs.

All see uint8 images and 100 prompts padded to 77 tokens, all learn with AdamW on a cross-entropy with label smoothing.
The two others are written here from their papers' descriptions, as people write them; not those
projects' code.
"""

import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from igsp_deploy.config import LearnConfig, ModelConfig, Precision, SelectorConfig
from igsp_deploy.model.backbone import Backbone
from igsp_deploy.model.clip import Clip
from igsp_deploy.model.folder import ModelFolder
from igsp_deploy.model.loading import load_backbone
from igsp_train.features import TrunkViews
from igsp_train.learn import TaskRun
from igsp_train.precision import autocast

CLASSES = 100
RANK = 64
"""Of one LoRA or MoE expert; ours has as many in all: four experts of rank 16 a block."""
Step = Callable[[], object]


class FixedViews:
    """Random pictures, the same in every epoch: augmentation is not what is measured."""

    def __init__(self, count: int, size: int) -> None:
        self.images = np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)

    def __len__(self) -> int:
        return len(self.images)

    def view(self, index: int, epoch: int) -> NDArray[np.uint8]:
        return self.images[index]


def open_backbone(name: str, device: str) -> Backbone:
    """The CLIP with random weights; `debug` for a quick look at the command."""
    return load_backbone(name, None if name == "debug" else "random").to(device)


def prompts(long: bool) -> list[str]:
    """100 prompts of 8 tokens (with their start and end), or with `long` of 77."""
    words = ["dog", "car", "tree", "house", "boat", "bird", "cup", "hat", "shoe", "ball"]
    pairs = [f"{a} {b}" for a in words for b in words]
    return [f"a photo of a {pair}" + (" with a cat" * 40 if long else "") for pair in pairs]


def igsp(
    backbone: Backbone, batch: int, device: str, precision: Precision, *, cached: bool, long: bool, steps: int
) -> Step:
    """This project's: adapters in the upper half of both towers, four candidates of rank 16 a block."""
    half = (backbone.vision_depth + 1) // 2, (backbone.text_depth + 1) // 2
    folder_path = Path(tempfile.mkdtemp()) / "model"
    model = ModelConfig(
        backbone=backbone.name,
        pretrained=backbone.pretrained,
        vision_blocks=half[0],
        text_blocks=half[1],
        rank=RANK // 4,
    )
    folder = ModelFolder.create(folder_path, backbone, model, SelectorConfig())
    config = LearnConfig(
        batch_size=batch,
        steps=steps,
        num_candidates=4,
        precision=precision,
        cached_views=int(cached),
        phase1_min_share=1.0,
        phase1_max_share=1.0,
        warmup_steps=1,
    )
    views = FixedViews(2 * batch, backbone.preprocess.size)
    trunk = TrunkViews(
        Clip(backbone, folder.sites, exact=False),
        views,
        cached_views=config.cached_views,
        limit_bytes=4 << 30,
        precision=precision,
    )
    labels = (np.arange(len(views)) % CLASSES).astype(np.int64)
    run = TaskRun(
        backbone, folder, config, views=trunk, labels=labels, prompts=prompts(long), fingerprint="measurement"
    )

    def step() -> None:
        run._step()
        run._read(None)

    return step


class Lora(nn.Module):
    """`W x + B A x` around a frozen linear layer (LoRA, arXiv 2106.09685; scale 1, no dropout)."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.weight, self.bias = weight, bias
        self.down = nn.Parameter(torch.randn(RANK, weight.shape[1], device=weight.device) * weight.shape[1] ** -0.5)
        self.up = nn.Parameter(torch.zeros(weight.shape[0], RANK, device=weight.device))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias) + F.linear(F.linear(x, self.down), self.up)


class LoraAttention(nn.Module):
    """open_clip's attention with LoRA on query, key, value and output."""

    def __init__(self, attention: nn.MultiheadAttention) -> None:
        super().__init__()
        self.heads = attention.num_heads
        assert attention.in_proj_weight is not None
        weights, biases = attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3)
        self.query, self.key, self.value = (Lora(w, b) for w, b in zip(weights, biases, strict=True))
        self.out = Lora(attention.out_proj.weight, attention.out_proj.bias)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, need_weights: bool, attn_mask: Any) -> tuple[Tensor]:
        parts = (self.query(query), self.key(key), self.value(value))
        q, k, v = (p.view(*p.shape[:2], self.heads, -1).transpose(1, 2) for p in parts)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask)
        return (self.out(mixed.transpose(1, 2).flatten(2)),)


class MoeMlp(nn.Module):
    """A frozen MLP with 22 bottleneck experts beside it, two of them a sample, by a Python loop over the experts.

    After the form of MoE-Adapters (CVPR 2024, arXiv 2403.11549): experts are `W_up relu(W_down h)` of rank 64, a router
    reads the first token (so the text router is constant), the outputs of the two best are summed with their weights.
    """

    NUM_EXPERTS = 22

    def __init__(self, mlp: Any, width: int, device: torch.device) -> None:
        super().__init__()
        self.c_fc, self.gelu, self.c_proj = mlp.c_fc, mlp.gelu, mlp.c_proj
        self.router = nn.Parameter(torch.randn(width, self.NUM_EXPERTS, device=device) * 0.02)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(width, RANK), nn.ReLU(), nn.Linear(RANK, width)) for _ in range(self.NUM_EXPERTS)
        ).to(device)

    def forward(self, hidden: Tensor) -> Tensor:
        scores, chosen = (hidden[:, 0] @ self.router).topk(2, dim=1)
        weights = scores.softmax(dim=1)
        added = torch.zeros_like(hidden)
        for number, expert in enumerate(self.experts):
            rows, places = (chosen == number).nonzero(as_tuple=True)
            if len(rows):
                added = added.index_add(0, rows, expert(hidden[rows]) * weights[rows, places].view(-1, 1, 1))
        return self.c_proj(self.gelu(self.c_fc(hidden))) + added


def whole_tower(clip: Any, backbone: Backbone, batch: int, precision: Precision) -> Step:
    """A step of a CLIP whose blocks were replaced: both towers in full, prompts of 77 tokens, as is usual."""
    parameters = [p for p in clip.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.0)
    device, own = backbone.device, Clip(backbone, [])
    images = FixedViews(batch, backbone.preprocess.size).images
    labels = (torch.arange(batch) % CLASSES).to(device)
    tokens = backbone.tokenize(prompts(False)).to(device)

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        pixels = own.pixels(torch.from_numpy(images).to(device))
        with autocast(device, precision):
            seen, read = clip.encode_image(pixels, normalize=True), clip.encode_text(tokens, normalize=True)
            logits = clip.logit_scale.exp() * seen @ read.T
        F.cross_entropy(logits.float(), labels, label_smoothing=0.1).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()

    return step


def lora(backbone: Backbone, batch: int, precision: Precision, *, mlp: bool) -> Step:
    """LoRA of rank 64 in all blocks of both towers: on query, key, value and output, or on the MLP's two layers."""
    clip: Any = backbone.clip
    for tower in (clip.visual.transformer, clip.transformer):
        for block in tower.resblocks:
            if mlp:
                block.mlp.c_fc = Lora(block.mlp.c_fc.weight, block.mlp.c_fc.bias)
                block.mlp.c_proj = Lora(block.mlp.c_proj.weight, block.mlp.c_proj.bias)
            else:
                block.attn = LoraAttention(block.attn)
    return whole_tower(clip, backbone, batch, precision)


def moe(backbone: Backbone, batch: int, precision: Precision) -> Step:
    """22 experts, top 2, beside the MLP of every block of both towers, by a loop over the experts."""
    clip: Any = backbone.clip
    for tower, width in ((clip.visual.transformer, backbone.vision_width), (clip.transformer, backbone.text_width)):
        for block in tower.resblocks:
            block.mlp = MoeMlp(block.mlp, width, backbone.device)
    return whole_tower(clip, backbone, batch, precision)


def build(name: str, model: str, batch: int, device: str, precision: Precision, steps: int) -> Step:
    """The step of contender `name` on a fresh backbone."""
    torch.manual_seed(0)
    backbone = open_backbone(model, device)
    ours = functools.partial(igsp, backbone, batch, device, precision, steps=steps)
    makers: dict[str, Callable[[], Step]] = {
        "igsp fresh": lambda: ours(cached=False, long=False),
        "igsp cached": lambda: ours(cached=True, long=False),
        "igsp fresh, 77 tokens": lambda: ours(cached=False, long=True),
        "igsp cached, 77 tokens": lambda: ours(cached=True, long=True),
        "lora qkvo": lambda: lora(backbone, batch, precision, mlp=False),
        "lora mlp": lambda: lora(backbone, batch, precision, mlp=True),
        "moe loop": lambda: moe(backbone, batch, precision),
    }
    return makers[name]()


NAMES = (
    "lora qkvo",
    "lora mlp",
    "moe loop",
    "igsp fresh",
    "igsp cached",
    "igsp fresh, 77 tokens",
    "igsp cached, 77 tokens",
)
