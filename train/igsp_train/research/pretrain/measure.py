"""Figures of the backbone: zero-shot on real images by names alone, and on unseen rendered combinations.

python -m igsp_train.research.pretrain.measure --zero-shot ../shared/data/caltech101_20
"""

import argparse
import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from open_clip import SimpleTokenizer
from open_clip.model import CLIP
from torch import Tensor

from igsp_deploy.backbones.nano import NANO_CONFIG, build_nano
from igsp_deploy.errors import UserError
from igsp_deploy.names import DEFAULT_TEMPLATE
from igsp_train.research.pretrain.cache import normalise
from igsp_train.research.pretrain.captions import NUMBER_WORDS
from igsp_train.research.pretrain.rendered import (
    COLOURS,
    RELATIONS,
    SHAPES,
    TEXTURES,
    Scene,
    caption,
    find_fonts,
    held_out,
    render,
)
from igsp_train.research.pretrain.views import list_images, open_image, plain_view, to_array


@torch.no_grad()
def embed_pictures(model: CLIP, pictures: Sequence[np.ndarray], batch: int = 64) -> Tensor:
    """Unit embeddings [N, D] of uint8 pictures [128, 128, 3]."""
    parts = [
        model.encode_image(normalise(np.stack(pictures[i : i + batch])), normalize=True)
        for i in range(0, len(pictures), batch)
    ]
    return torch.cat(parts)


@torch.no_grad()
def embed_texts(model: CLIP, texts: Sequence[str]) -> Tensor:
    """Unit embeddings [N, D]."""
    tokens = SimpleTokenizer(context_length=NANO_CONFIG["context_length"])(list(texts))
    return torch.cat([model.encode_text(part, normalize=True) for part in tokens.split(128)])


def class_texts(folder: Path, names: Sequence[str]) -> list[str]:
    """One text a class: the template and the display names of `classes.json` beside the images, where there is one."""
    path = next((p for p in (folder / "classes.json", folder.parent / "classes.json") if p.is_file()), None)
    described = json.loads(path.read_text(encoding="utf-8")) if path else {}
    template, shown = described.get("template", DEFAULT_TEMPLATE), described.get("classes", {})
    return [template.format(shown.get(name, name.replace("_", " "))) for name in names]


def zero_shot(model: CLIP, folder: Path) -> tuple[float, int, int]:
    """Accuracy by class names alone.

    Args:
        model: the backbone.
        folder: an ImageFolder, or one with a `test` split inside.

    Returns:
        Share of correct images, number of images, number of classes.
    """
    images = folder / "test" if (folder / "test").is_dir() else folder
    paths, labels, names = list_images(images)
    embedded = embed_pictures(model, [to_array(plain_view(open_image(path))) for path in paths])
    scores = embedded @ embed_texts(model, class_texts(images, names)).T
    return float((scores.argmax(1) == torch.tensor(labels)).float().mean()), len(paths), len(names)


def unseen_scenes() -> dict[str, list[Scene]]:
    """Every held-out combination of each kind; the scenes of a kind are its candidates."""
    objects = [
        Scene(kind="object", attributes={"colour": c, "shape": s, "texture": t, "size": ""})
        for c in COLOURS for s in SHAPES for t in TEXTURES if held_out(c, s)
    ]  # fmt: skip
    counts = [
        Scene(kind="count", attributes={"colour": c, "shape": s, "number": n})
        for n in NUMBER_WORDS[1:7] for s in SHAPES for c in ("red", "green", "blue", "yellow") if held_out(n, s)
    ]  # fmt: skip
    relations = [
        Scene(kind="relation", attributes={"colour": "red", "shape": s, "relation": r, "other_shape": o,
        "other_colour": "blue"}) for s in SHAPES for r in RELATIONS for o in SHAPES if s != o and held_out(s, r, o)
    ]  # fmt: skip
    return {"object": objects, "count": counts, "relation": relations}


def rendered_zero_shot(model: CLIP, kind: str, num_repeats: int = 5, seed: int = 7) -> tuple[float, int]:
    """Accuracy of choosing a picture's caption among those of all held-out combinations of its kind.

    Returns:
        Share of correct pictures, number of candidates.
    """
    scenes, fonts = unseen_scenes()[kind], find_fonts()
    rng = random.Random(seed)
    pictures = [to_array(render(scene, rng, fonts)) for _ in range(num_repeats) for scene in scenes]
    texts = embed_texts(model, [caption(scene, rng, full=True)[0] for scene in scenes])
    truth = torch.arange(len(scenes)).repeat(num_repeats)
    return float(((embed_pictures(model, pictures) @ texts.T).argmax(1) == truth).float().mean()), len(scenes)


def report(model: CLIP, folders: Sequence[Path]) -> None:
    """Print all figures."""
    for folder in folders:
        accuracy, num_images, num_classes = zero_shot(model, folder)
        print(f"zero-shot {folder.name}: {accuracy:.3f} ({num_images} images, {num_classes} classes, names only)")
    for kind in ("object", "count", "relation"):
        accuracy, candidates = rendered_zero_shot(model, kind)
        print(f"rendered {kind}, held-out combinations, {candidates}-way: {accuracy:.3f}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m igsp_train.research.pretrain.measure", description=__doc__.split("\n")[0] if __doc__ else None
    )
    parser.add_argument(
        "--zero-shot", type=Path, nargs="*", default=[], metavar="DIR", help="image folders (CLASS/* or test/CLASS/*)"
    )
    parser.add_argument("--weights", type=Path, default=None, help="weights file; default the one that ships")
    options = parser.parse_args(arguments)
    try:
        report(build_nano(options.weights), options.zero_shot)
    except UserError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
