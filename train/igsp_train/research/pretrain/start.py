"""Where the vision tower starts: it hands the teacher's feature through, so training has to add, not to find again.

The first dimensions of a token are the principal axes of the anchors' embedding A f + a, the others those of the
trunk's finer maps. The first block's attention, nearly uniform, averages the tokens into the class token; the later
blocks start small; the last projection is solved by ridge regression. What generalises in the teacher thus
generalises in the student from the first step.
"""

import torch
import torch.nn.functional as F
from open_clip.model import CLIP
from torch import Tensor, nn

from igsp_deploy.backbones.nano.model import NANO_CONFIG, empty_nano
from igsp_deploy.backbones.nano.trunk import NUM_CELL, NUM_HEAD
from igsp_train.research.pretrain.anchors import Anchors
from igsp_train.research.pretrain.cache import Cache

NUM_SEMANTIC = 168
SAMPLE = 3000
RIDGE = 1e-3


def _principal_axes(rows: Tensor, num_axes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Mean [d], axes [d, n] and standard deviations [n] along them of `rows` [N, d]."""
    mean = rows.mean(0)
    centred = rows - mean
    values, vectors = torch.linalg.eigh(centred.T @ centred / len(rows))
    return mean, vectors[:, -num_axes:].flip(1), values[-num_axes:].flip(0).clamp_min(1e-12).sqrt()


@torch.no_grad()
def start_towers(anchors: Anchors, real: Cache, rendered: Cache, token_start: Tensor, seed: int) -> CLIP:
    """Build the network with `visual.conv1` reading cells.

    Args:
        anchors: the embedding space.
        real: cached real pictures, for the axes and the ridge regression.
        rendered: cached rendered pictures, for the axes of the fine maps.
        token_start: [49408, text width] the token embedding at the start.
        seed: of the sample of pictures.
    """
    width = NANO_CONFIG["vision_cfg"]["width"]
    generator = torch.Generator().manual_seed(seed)
    sample = real.cells[torch.randint(len(real.cells), (SAMPLE,), generator=generator)].float()
    drawn = rendered.cells[torch.randint(len(rendered.cells), (SAMPLE // 4,), generator=generator)].float()
    embed = nn.Conv2d(NUM_CELL, width, 1, bias=False)
    model = empty_nano(embed)
    model.token_embedding.weight.copy_(token_start)
    visual = model.visual

    target = anchors.project(sample[:, :NUM_HEAD].mean(dim=(2, 3)))
    mean, axes, spread = _principal_axes(target, NUM_SEMANTIC)
    assert anchors.project.bias is not None
    gain = 1.5 / spread.square().mean().sqrt()
    semantic = gain * axes.T @ anchors.project.weight
    fine = torch.cat([sample[: SAMPLE // 4], drawn])[:, NUM_HEAD:].permute(0, 2, 3, 1).reshape(-1, NUM_CELL - NUM_HEAD)
    deviation = fine.std(0).clamp_min(1e-3)
    fine_mean, fine_axes, fine_spread = _principal_axes(fine / deviation, width - NUM_SEMANTIC)
    fine_rows = (fine_axes / fine_spread).T / deviation

    embed.weight.zero_()
    embed.weight[:NUM_SEMANTIC, :NUM_HEAD, 0, 0] = semantic
    embed.weight[NUM_SEMANTIC:, NUM_HEAD:, 0, 0] = fine_rows
    position = visual.positional_embedding
    position.mul_(0.5)
    position[1:, :NUM_SEMANTIC] += gain * axes.T @ (anchors.project.bias - mean)
    position[1:, NUM_SEMANTIC:] -= fine_rows @ (fine_mean * deviation)
    position[0].zero_()
    visual.class_embedding.zero_()
    visual.class_embedding[NUM_SEMANTIC::2], visual.class_embedding[NUM_SEMANTIC + 1 :: 2] = 1.0, -1.0

    for block in visual.transformer.resblocks:
        block.attn.out_proj.weight.mul_(0.3)
        block.mlp.c_proj.weight.mul_(0.3)
    first = visual.transformer.resblocks[0].attn
    first.in_proj_weight[: 2 * width] *= 0.3
    first.in_proj_weight[2 * width :] *= 0.1
    first.in_proj_weight[2 * width :] += torch.eye(width)
    first.out_proj.weight += 2.0 * torch.diag((torch.arange(width) < NUM_SEMANTIC).float())

    seen = torch.cat([_class_token(model, part) for part in sample.split(250)]).double()
    gram = seen.T @ seen + RIDGE * len(seen) * torch.eye(width, dtype=seen.dtype)
    visual.proj.copy_(torch.linalg.solve(gram, seen.T @ F.normalize(target, dim=1).double()).float() * width**0.5)
    return model


def _class_token(model: CLIP, cells: Tensor) -> Tensor:
    """The class token before the last projection, [B, width]."""
    visual = model.visual
    result: Tensor = visual.ln_post(visual.transformer(visual._embeds(cells))[:, 0])
    return result
