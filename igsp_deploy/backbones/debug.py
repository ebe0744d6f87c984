"""A tiny CLIP with seeded random weights that runs anywhere in milliseconds: for tests and for trying out commands."""

import torch
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

IMAGE_SIZE = 32
CONTEXT_LENGTH = 24


def build_debug(seed: int = 0) -> CLIP:
    """Three image blocks of width 32 on 16 patches, two text blocks of width 32, embeddings of width 24.

    Args:
        seed: of the random weights; the global random state is left as it was.
    """
    state = torch.get_rng_state()
    torch.manual_seed(seed)
    try:
        clip = CLIP(
            embed_dim=24,
            vision_cfg=CLIPVisionCfg(layers=3, width=32, head_width=16, patch_size=8, image_size=IMAGE_SIZE),
            text_cfg=CLIPTextCfg(context_length=CONTEXT_LENGTH, width=32, heads=2, layers=2),
        )
    finally:
        torch.set_rng_state(state)
    clip.visual.preprocess_cfg = {"size": IMAGE_SIZE, "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
    return clip
