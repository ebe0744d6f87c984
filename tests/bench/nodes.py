"""Nodes of the exported graphs on a GPU, beside plain CLIP's: at batch 1 each is a launch to wait for.

    python -m tests.bench.make_model MODEL --backbone ViT-B-16 --tasks 3
    python -m tests.bench.nodes MODEL

Needs what `tests/cuda/placement.py` needs; no GPU. A node that only looks at sizes or shapes launches nothing.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from igsp_deploy.model.folder import ModelFolder
from igsp_deploy.model.learned import LearnedClip
from igsp_export.graphs import DTYPES, write_graphs, write_plain_graph
from tests.cuda.placement import Placement, missing, place

NO_LAUNCH = {"Reshape", "Shape", "Squeeze", "Unsqueeze"}


def measure(model: Path, precision: str) -> dict[str, Placement]:
    """Placements of plain CLIP's image graph, ours and the text graph of a model folder."""
    opened = ModelFolder.open(model)
    learned = LearnedClip.open(opened)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_plain_graph(learned.backbone, folder / "plain.onnx", precision, 23)
        variant = write_graphs(opened, learned, folder, precision, 23)
        files = {"plain CLIP": "plain.onnx", "image": variant.image, "text": variant.text}
        return {name: place(folder / file, capture=True) for name, file in files.items()}


def launches(placement: Placement) -> int:
    """Nodes that run something on the GPU."""
    return sum(number for kind, number in placement.cuda.items() if kind not in NO_LAUNCH)


def main() -> None:
    """Print a row a graph."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.nodes", description=__doc__.split("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--precision", choices=sorted(DTYPES), default="fp16")
    options = parser.parse_args()
    if (reason := missing()) is not None:
        sys.exit(f"cannot ask: {reason}")
    found = measure(options.model, options.precision)
    base = found["plain CLIP"]
    print("| graph | nodes on CUDA | beside plain | launches | beside plain | copies | CUDA graph |")
    print("|---|---|---|---|---|---|---|")
    for name, one in found.items():
        nodes = sum(one.cuda.values())
        ratios = (nodes / sum(base.cuda.values()), launches(one) / launches(base))
        accepted = "refused" if one.capture_refused else "accepted"
        cells = (name, nodes, f"{ratios[0]:.2f}", launches(one), f"{ratios[1]:.2f}", len(one.copies), accepted)
        print(f"| {' | '.join(map(str, cells))} |")


if __name__ == "__main__":
    main()
