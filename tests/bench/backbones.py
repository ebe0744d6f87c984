"""Which of open_clip's models are accepted: `python -m tests.bench.backbones [--write docs/backbones.md]`.

Builds every architecture without its weights, prints a line for each and the shares, and writes them as a page.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import open_clip

from igsp_deploy.model.catalogue import Architecture, architectures, short_names

HEAD = """\
# CLIPs that can be learned with

Made by `python -m tests.bench.backbones --write docs/backbones.md`; `igsp backbones --all` prints the same from the
installed open_clip.

To start from (`igsp train MODEL --backbone NAME`):

| name | architecture | tag | what for |
| --- | --- | --- | --- |
| `nano` | - | - | in the package, no download: to try things, and for tests |
"""
MORE = """
Any other architecture of open_clip that is accepted below: `--backbone ARCHITECTURE --pretrained TAG`. Weights of your
own: `--pretrained PATH` (safetensors, a state dict, `epoch_N.pt` of open_clip's training, OpenAI's archives).
`--backbone hf-hub:ORG/NAME` and `--backbone local-dir:PATH` take configuration and weights together.

Experts stand beside the MLPs of open_clip's own transformers, of timm's (SigLIP, SigLIP2, ViTamin, MobileCLIP-B) and of
its Eva (PE, EVA01, EVA02); in the last stage of ConvNeXt and FastViT (MobileCLIP-S); and on the embedding of a tower
that is taken whole (ResNets, Hugging Face's text encoders). Without a task each gives what open_clip's own call gives,
to the bit (`tests/unit/model/test_towers.py`). Where a tower has no class token, router and selector read the mean of
all tokens.

Weights run as they were trained: activation, mean, deviation, interpolation and resize mode come from the tag; for a
checkpoint of your own from what all tags of its architecture share, or from `--set model.preprocess=TAG`.

open_clip does not tell the licences of weights; its own, MIT, is that of its code. Read the model card before you ship:
`open_clip.get_pretrained_cfg(ARCHITECTURE, TAG)["hf_hub"]` is its name on the Hugging Face Hub.

"""
TABLE = """
| architecture | pixels | parameters | context | blocks for experts | tags | accepted, or why not |
| --- | ---: | ---: | ---: | --- | ---: | --- |
"""


def shares(found: Sequence[Architecture]) -> str:
    """How many are accepted, of how many."""
    accepted = [one for one in found if one.problem is None]
    tags, of = sum(len(one.tags) for one in accepted), sum(len(one.tags) for one in found)
    return (
        f"open_clip {open_clip.__version__}: {len(accepted)} of {len(found)} architectures are accepted, "
        f"with {tags} of {of} pretrained tags."
    )


def page(found: Sequence[Architecture]) -> str:
    """The whole page."""
    short = "".join(f"| `{name}` | {place} | {tag} | {what} |\n" for name, place, tag, what in short_names())
    rows = ""
    for one in found:
        size = "-" if one.parameters is None else f"{one.parameters / 1e6:,.0f}M"
        places, verdict = one.places or "-", one.problem or "yes"
        cells = (one.name, one.image_size or "-", size, one.context, places, len(one.tags), verdict)
        rows += f"| {' | '.join(str(cell) for cell in cells)} |\n"
    return f"{HEAD}{short}{MORE}{shares(found)}\n{TABLE}{rows}"


def main() -> None:
    """Walk all architectures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", type=Path, help="the page to write")
    place = parser.parse_args().write
    found = list(architectures())
    for one in found:
        print(f"{one.name:40} {len(one.tags):3} tags  {one.problem or 'yes'}")
    print(shares(found))
    if place is not None:
        place.write_text(page(found), encoding="utf-8")


if __name__ == "__main__":
    main()
