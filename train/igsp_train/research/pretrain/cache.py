"""Everything the towers learn from, computed once: the trunk's cells of a fixed set of pictures.

The trunk is frozen, so one pass over the pictures is enough and a step of pretraining costs only the transformers.
Mixtures of two pictures are passed through the teacher like any other, so its answer to a mixture is exact.
"""

import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from igsp_deploy.backbones.nano.model import NANO_CONFIG
from igsp_deploy.backbones.nano.trunk import NUM_HEAD, Lite0, cells
from igsp_train.research.pretrain.rendered import Scene, find_fonts, render, sample_scene
from igsp_train.research.pretrain.views import mixture, open_image, plain_view, random_view, to_array

BATCH = 64


@dataclass(frozen=True, kw_only=True)
class Cache:
    """Pictures as the trunk sees them."""

    cells: Tensor
    """[N, 2368, 4, 4] half precision: the trunk's cells."""
    labels: Tensor
    """[N] class of the folder, -1 for mixtures and rendered pictures."""
    scenes: list[Scene]
    """What rendered pictures show; empty for real ones."""

    def pooled(self, rows: Tensor) -> Tensor:
        """The teacher's pooled feature of some pictures, [n, 1280] float32."""
        return self.cells[rows][:, :NUM_HEAD].float().mean(dim=(2, 3))


def normalise(pictures: np.ndarray) -> Tensor:
    """Map uint8 [B, 128, 128, 3] to the network's input, float32 [B, 3, 128, 128]."""
    cfg = NANO_CONFIG["preprocess_cfg"]
    mean, std = (torch.tensor(cfg[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    result: Tensor = (torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255 - mean) / std
    return result


@torch.no_grad()
def run_trunk(trunk: Lite0, pictures: np.ndarray) -> Tensor:
    """Cells [B, 2368, 4, 4], half precision, of uint8 pictures [B, 128, 128, 3]."""
    images = normalise(pictures).contiguous(memory_format=torch.channels_last)
    return cells(*trunk(images)).half().contiguous()


def cache_real(
    trunk: Lite0, paths: list[Path], labels: list[int], num_views: int, seed: int, *, mixed_share: float = 0.4
) -> Cache:
    """Cache random views of images; `mixed_share` of them mixtures of two. `num_views` = 0: one plain view each."""
    rng = random.Random(seed)
    images = [open_image(path) for path in paths]
    order = [index for _ in range(max(1, num_views)) for index in rng.sample(range(len(paths)), len(paths))]
    if num_views == 0:
        order = list(range(len(paths)))
    result = torch.empty(len(order), *_cell_shape(), dtype=torch.float16)
    chosen = torch.empty(len(order), dtype=torch.int64)
    for start in range(0, len(order), BATCH):
        batch = []
        for position in range(start, min(start + BATCH, len(order))):
            index = order[position]
            chosen[position] = labels[index]
            view = random_view(images[index], rng) if num_views else plain_view(images[index])
            if num_views and rng.random() < mixed_share:
                view = mixture(view, random_view(rng.choice(images), rng), rng)
                chosen[position] = -1
            batch.append(to_array(view))
        result[start : start + len(batch)] = run_trunk(trunk, np.stack(batch))
    return Cache(cells=result, labels=chosen, scenes=[])


def cache_rendered(trunk: Lite0, num_pictures: int, seed: int) -> Cache:
    """Cache rendered pictures of the training combinations."""
    rng, fonts = random.Random(seed), find_fonts()
    scenes = [sample_scene(rng) for _ in range(num_pictures)]
    result = torch.empty(num_pictures, *_cell_shape(), dtype=torch.float16)
    for start in range(0, num_pictures, BATCH):
        pictures = np.stack([to_array(render(scene, rng, fonts)) for scene in scenes[start : start + BATCH]])
        result[start : start + len(pictures)] = run_trunk(trunk, pictures)
    return Cache(cells=result, labels=torch.full((num_pictures,), -1), scenes=scenes)


def _cell_shape() -> tuple[int, int, int]:
    from igsp_deploy.backbones.nano.trunk import NUM_CELL

    return NUM_CELL, 4, 4
