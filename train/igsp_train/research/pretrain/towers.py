"""Training of both towers on the cache: one step of it, and the set-up of the network."""

import random
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from open_clip import SimpleTokenizer
from open_clip.model import CLIP
from torch import Tensor, nn

from igsp_deploy.backbones.nano.model import NANO_CONFIG
from igsp_deploy.backbones.nano.trunk import NUM_CELL, NUM_HEAD
from igsp_train.research.pretrain.anchors import Anchors, distillation
from igsp_train.research.pretrain.cache import Cache
from igsp_train.research.pretrain.captions import name_text
from igsp_train.research.pretrain.losses import alignment, caption_contrast, name_loss
from igsp_train.research.pretrain.rendered import altered, caption, facts

NUM_REBUILT = 384
MAX_CONTRASTED = 2000


def low_precision() -> AbstractContextManager[object]:
    """Matrix products in bfloat16 where the processor has instructions for them, else in single precision."""
    return torch.autocast("cpu", torch.bfloat16, enabled=bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()))


@dataclass(frozen=True, kw_only=True)
class Whitening:
    """Principal axes of the trunk's cells, each channel scaled to unit variance first."""

    mean: Tensor
    """[2368]"""
    std: Tensor
    """[2368]"""
    axes: Tensor
    """[384, 2368], scaled so that the coordinates have unit variance."""

    @staticmethod
    def fit(caches: Sequence[Cache], seed: int) -> "Whitening":
        """Fit on 24,000 cells."""
        generator = torch.Generator().manual_seed(seed)
        parts = [c.cells[torch.randint(len(c.cells), (750,), generator=generator)].float() for c in caches]
        flat = torch.cat(parts).permute(0, 2, 3, 1).reshape(-1, NUM_CELL)
        mean, std = flat.mean(0), flat.std(0).clamp_min(1e-3)
        white = (flat - mean) / std
        values, vectors = torch.linalg.eigh(white.T @ white / len(white))
        top = vectors[:, -NUM_REBUILT:].flip(1) / values[-NUM_REBUILT:].flip(0).sqrt()
        return Whitening(mean=mean, std=std, axes=top.T.contiguous())

    def __call__(self, cells: Tensor) -> Tensor:
        """Map [B, 2368, 4, 4] to coordinates [B, 16, 384]."""
        tokens = cells.flatten(2).transpose(1, 2)
        result: Tensor = ((tokens - self.mean) / self.std) @ self.axes.T
        return result


class Towers(nn.Module):
    """The network in training, and the heads that only training needs."""

    def __init__(
        self,
        model: CLIP,
        anchors: Anchors,
        whitening: Whitening,
        names: Sequence[Sequence[str]],
        tables: Sequence[Tensor],
    ) -> None:
        super().__init__()
        self.model, self.anchors, self.whitening = model, anchors, whitening
        self.names, self.tables = names, tables
        width, dims = NANO_CONFIG["vision_cfg"]["width"], NANO_CONFIG["embed_dim"]
        self.scale = float(NANO_CONFIG["logit_scale"])
        self.rebuild_cells = nn.Linear(width, NUM_REBUILT)
        self.rebuild_mean = nn.Linear(dims, NUM_REBUILT)
        self.tokenizer = SimpleTokenizer(context_length=NANO_CONFIG["context_length"])

    def texts(self, texts: list[str]) -> Tensor:
        """Unit embeddings of texts; computed to the longest text's end only (the attention is causal)."""
        tokens = self.tokenizer(texts)
        length = int(tokens.argmax(1).max()) + 1
        tokens = tokens[:, :length]
        m = self.model
        with low_precision():
            x = m.token_embedding(tokens) + m.positional_embedding[:length]
            x = m.transformer(x, attn_mask=m.attn_mask[:length, :length])
        x = m.ln_final(x[torch.arange(len(tokens)), tokens.argmax(1)].float())
        return F.normalize(x @ m.text_projection, dim=1)

    def images(self, cells: Tensor) -> tuple[Tensor, Tensor]:
        """Unit embeddings [B, D] and final tokens [B, 16, width] of cells [B, 2368, 4, 4]."""
        v = self.model.visual
        x = v._embeds(cells)
        with low_precision():
            x = v.transformer(x)
        x = v.ln_post(x.float())
        return F.normalize(x[:, 0] @ v.proj, dim=1), x[:, 1:]

    def step(
        self, real: Cache, rendered: Cache, classifier: nn.Linear, rng: random.Random, sizes: tuple[int, int, int]
    ) -> dict[str, Tensor]:
        """Losses of one random batch of `sizes` = (real pictures, rendered pictures, names of each list)."""
        num_real, num_rendered, num_names = sizes
        rows = torch.tensor(rng.choices(range(len(real.cells)), k=num_real))
        drawn = rng.sample(range(len(rendered.cells)), num_rendered)
        cells = torch.cat([real.cells[rows].float(), rendered.cells[torch.tensor(drawn)].float()])
        embedded, tokens = self.images(cells)
        pooled = cells[:num_real, :NUM_HEAD].mean(dim=(2, 3))
        target = self.anchors.project(pooled)
        found = embedded[:num_real]
        labels = real.labels[rows]
        known = labels >= 0
        coordinates = self.whitening(cells)
        losses = {
            "place": 2 * alignment(found, target),
            "distil": distillation(self.scale * found @ self.anchors.imagenet.T, classifier(pooled)),
            "folder": 0.3 * F.cross_entropy(self.scale * found[known] @ self.anchors.folder.T, labels[known]),
            "cells": 0.3 * F.mse_loss(self.rebuild_cells(tokens), coordinates),
            "mean": 0.3 * F.mse_loss(self.rebuild_mean(embedded * embedded.shape[1] ** 0.5), coordinates.mean(1) * 4),
        }
        scenes = [rendered.scenes[i] for i in drawn]
        captions = [caption(scene, rng) for scene in scenes] + [caption(altered(scene, rng), rng) for scene in scenes]
        texts = [text for text, _ in captions]
        picked = [rng.choices(range(len(names)), k=num_names) for names in self.names]
        for names, chosen in zip(self.names, picked, strict=True):
            texts += [name_text(names[i], rng) for i in chosen]
        written = self.texts(texts)
        true = [facts(scene) for scene in scenes]
        agreeing = torch.tensor([[stated <= known_facts for _, stated in captions] for known_facts in true])
        start = len(captions)
        losses["captions"] = caption_contrast(embedded[num_real:], written[:start], agreeing, self.scale)
        for index, (table, chosen) in enumerate(zip(self.tables, picked, strict=True)):
            part = written[start : start + num_names]
            target, share = torch.tensor(chosen), 1.0
            if len(table) > MAX_CONTRASTED:  # against the batch's own words only
                table, target, share = table[target], torch.arange(num_names), 0.5
            losses[f"names{index}"] = share * name_loss(part, table, target, self.scale)
            start += num_names
        return losses
