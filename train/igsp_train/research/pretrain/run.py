"""The whole of pretraining: pictures to cache, anchors, words, towers, weights file."""

import math
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import open_clip
import torch
import torch.nn.functional as F
from open_clip.model import CLIP
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from igsp_deploy.backbones.nano.model import NANO_CONFIG
from igsp_deploy.backbones.nano.packing import load_packed
from igsp_deploy.backbones.nano.trunk import NUM_HEAD, Lite0
from igsp_train.research.pretrain.anchors import Anchors, fit_anchors
from igsp_train.research.pretrain.cache import Cache, cache_real, cache_rendered
from igsp_train.research.pretrain.finish import write_nano
from igsp_train.research.pretrain.start import start_towers
from igsp_train.research.pretrain.teacher import build_teacher
from igsp_train.research.pretrain.towers import Towers, Whitening, low_precision
from igsp_train.research.pretrain.views import HELD_OUT_EVERY, list_images
from igsp_train.research.pretrain.words import SentenceModel, fit_meaning, token_start, vocabulary, word_pairs

NUM_BYTE_TOKENS = 512
END_TOKENS = (49406, 49407)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How long and on how much to train."""

    seed: int = 0
    """Of every random choice."""
    num_steps: int = 1300
    """Steps of the towers."""
    num_views: int = 3
    """Views of each real image."""
    num_rendered: int = 14000
    """Rendered pictures."""
    num_words: int = 40000
    """Words that get a predicted anchor (the vocabulary has 32,000 whole words)."""
    num_pairs: int = 8000
    """Compounds of two words that get one as well."""
    batch: tuple[int, int, int] = (24, 48, 48)
    """Real pictures, rendered pictures, and names of each list in one step."""
    learning_rate: float = 5e-4
    """Peak of AdamW's learning rate for the vision tower, which starts near the teacher."""
    text_learning_rate: float = 1.5e-3
    """The same for the text tower, which starts from scratch."""
    num_warmup_steps: int = 60
    """Steps of linear warm-up; a cosine to zero follows."""
    weight_decay: float = 0.02
    """On matrices only."""
    start_from: Path | None = None
    """Weights file of an earlier run whose towers are trained further; None: start at the teacher."""
    minutes_limit: float = 55.0
    """The schedule is shortened so that the whole run keeps to it."""


@dataclass(frozen=True, kw_only=True)
class Material:
    """What the towers learn from."""

    trunk: Lite0
    classifier: nn.Linear
    real: Cache
    held_out: Cache
    rendered: Cache
    class_names: list[str]


def say(text: str) -> None:
    """Progress goes to stderr."""
    print(text, file=sys.stderr, flush=True)


def gather(folder: Path, settings: Settings) -> Material:
    """Read the images, render the scenes, run the trunk over both. Every 20th image is held out."""
    trunk, classifier = build_teacher()
    trunk = trunk.to(memory_format=torch.channels_last)
    paths, labels, names = list_images(folder)
    kept = [i for i in range(len(paths)) if i % HELD_OUT_EVERY]
    spared = [i for i in range(len(paths)) if i % HELD_OUT_EVERY == 0]
    real = cache_real(trunk, [paths[i] for i in kept], [labels[i] for i in kept], settings.num_views, settings.seed)
    held_out = cache_real(trunk, [paths[i] for i in spared], [labels[i] for i in spared], 0, settings.seed)
    say(f"{len(real.cells)} views of {len(kept)} images")
    rendered = cache_rendered(trunk, settings.num_rendered, settings.seed + 1)
    say(f"{len(rendered.cells)} rendered pictures")
    class_names = [name.replace("_", " ").lower() for name in names]
    return Material(
        trunk=trunk, classifier=classifier, real=real, held_out=held_out, rendered=rendered, class_names=class_names
    )


def pooled(cache: Cache) -> Tensor:
    """The teacher's pooled features of a cache, [N, 1280]."""
    return torch.cat([part[:, :NUM_HEAD].float().mean(dim=(2, 3)) for part in cache.cells.split(500)])


@dataclass(frozen=True, kw_only=True)
class Targets:
    """What the text tower learns: lists of texts, the anchor of each, and where the token embedding starts."""

    anchors: Anchors
    names: list[list[str]]
    tables: list[Tensor]
    token_start: Tensor


def aim(material: Material, settings: Settings) -> Targets:
    """Fix the anchors of names and predict those of words."""
    scale, dims = float(NANO_CONFIG["logit_scale"]), int(NANO_CONFIG["embed_dim"])
    features = pooled(material.real), pooled(material.rendered)
    anchors = fit_anchors(
        features[0], material.real.labels, features[1], material.classifier, dims, scale, settings.seed
    )
    say(f"anchors: {anchor_report(material, anchors)}")
    imagenet = list(open_clip.IMAGENET_CLASSNAMES)
    words, _ = vocabulary(settings.num_words)
    words += word_pairs(words, imagenet + material.class_names, settings.num_pairs, random.Random(settings.seed))
    with low_precision():
        sentences = SentenceModel()
        known = sentences.encode([f"a photo of a {name}" for name in imagenet + material.class_names])
        matrix, offset = fit_meaning(known, torch.cat([anchors.imagenet, anchors.folder]), 0.1)
        predicted = F.normalize(sentences.encode([f"a photo of a {word}" for word in words]) @ matrix + offset, dim=1)
        start = token_start(sentences, NANO_CONFIG["text_cfg"]["width"])
    say(f"{len(words)} words placed")
    return Targets(
        anchors=anchors,
        names=[imagenet, material.class_names, words],
        tables=[anchors.imagenet, anchors.folder, predicted.float()],
        token_start=start.float(),
    )


@torch.no_grad()
def anchor_report(material: Material, anchors: Anchors) -> str:
    """How well the anchors stand for the teacher on the held-out images."""
    feature = pooled(material.held_out)
    unit = F.normalize(anchors.project(feature), dim=1)
    agree = ((unit @ anchors.imagenet.T).argmax(1) == material.classifier(feature).argmax(1)).float().mean()
    correct = ((unit @ anchors.folder.T).argmax(1) == material.held_out.labels).float().mean()
    return f"{agree:.3f} of the held-out images get the teacher's ImageNet class, {correct:.3f} their own"


def _groups(towers: Towers, settings: Settings) -> Iterator[dict[str, object]]:
    for vision in (True, False):
        peak = settings.learning_rate if vision else settings.text_learning_rate
        for matrices in (True, False):
            chosen = [
                p
                for name, p in towers.named_parameters()
                if p.requires_grad and name.startswith("model.visual.") == vision and (p.dim() > 1) == matrices
            ]
            yield {
                "params": chosen,
                "weight_decay": settings.weight_decay if matrices else 0.0,
                "lr": peak,
                "peak": peak,
            }


def train_towers(material: Material, targets: Targets, settings: Settings, deadline_s: float) -> CLIP:
    """Train both towers; returns the network with `visual.conv1` still reading cells."""
    torch.manual_seed(settings.seed)
    whitening = Whitening.fit([material.real, material.rendered], settings.seed)
    model = start_towers(targets.anchors, material.real, material.rendered, targets.token_start, settings.seed)
    if settings.start_from is not None:
        state = load_packed(settings.start_from)
        kept = {name: value for name, value in state.items() if not name.startswith("visual.conv1.trunk.")}
        model.load_state_dict({name.replace("conv1.embed.", "conv1."): value for name, value in kept.items()})
    towers = Towers(model, targets.anchors, whitening, targets.names, targets.tables)
    model.logit_scale.requires_grad_(False)
    optimiser = torch.optim.AdamW(_groups(towers, settings), betas=(0.9, 0.98), fused=True)
    rng, means = random.Random(settings.seed), dict[str, float]()
    begun, step, num_steps = time.monotonic(), 0, settings.num_steps
    while step < num_steps:
        level = min(1.0, (step + 1) / settings.num_warmup_steps) * (0.5 + 0.5 * math.cos(math.pi * step / num_steps))
        for group in optimiser.param_groups:
            group["lr"] = group["peak"] * level
        with sdpa_kernel(
            SDPBackend.MATH
        ):  # on short sequences the processor's fused kernel needs ten times as long to go back
            losses = towers.step(material.real, material.rendered, material.classifier, rng, settings.batch)
            optimiser.zero_grad(set_to_none=True)
            torch.stack(list(losses.values())).sum().backward()
        nn.utils.clip_grad_norm_(towers.parameters(), 1.0)
        optimiser.step()
        for name, value in losses.items():
            number = float(value.detach())
            means[name] = 0.97 * means.get(name, number) + 0.03 * number
        step += 1
        if step % 50 == 0:
            elapsed = time.monotonic() - begun
            affordable = step + int((deadline_s - time.monotonic()) / (elapsed / step))
            num_steps = max(step + 1, min(settings.num_steps, affordable))
            say(f"{step}/{num_steps} {elapsed:.0f} s " + " ".join(f"{k} {v:.3f}" for k, v in means.items()))
    return model.eval()


def pretrain(images: Path, out: Path, settings: Settings) -> int:
    """Pretrain the backbone.

    Args:
        images: folder of real images, one folder a class.
        out: weights file to write.
        settings: how long and on how much.

    Returns:
        Size of the file, bytes.
    """
    deadline_s = time.monotonic() + 60 * settings.minutes_limit
    material = gather(images, settings)
    targets = aim(material, settings)
    model = train_towers(material, targets, settings, deadline_s)
    return write_nano(model, material.trunk, token_rows(), out)


def token_rows() -> Tensor:
    """Ids of the tokens worth storing: whole words, single bytes, and the two end tokens."""
    _, ids = vocabulary(1 << 20)
    return torch.tensor(sorted({*ids, *range(NUM_BYTE_TOKENS), *END_TOKENS}))
