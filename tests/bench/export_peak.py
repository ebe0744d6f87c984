"""Most memory that `igsp export` takes, beside the size of the backbone's weights.

    python -m tests.bench.export_peak [--backbone ViT-L-14] [--check-images 16]

Random weights, two made-up tasks. Needs Linux and disk for the model, the bundle and the weights in both.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from igsp_deploy.config import ModelConfig
from igsp_deploy.model.loading import RANDOM, load_backbone
from tests.bench.make_model import make_model


def main() -> None:
    """Print one line."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.export_peak", description=__doc__.split("\n")[0])
    parser.add_argument("--backbone", default="ViT-L-14")
    parser.add_argument("--check-images", type=int, default=16)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        model, bundle = Path(scratch) / "model", Path(scratch) / "bundle"
        make_model(model, ModelConfig(backbone=given.backbone, pretrained=RANDOM), tasks=2, experts=2, new=2)
        clip = load_backbone(given.backbone, RANDOM).clip
        weights = sum(p.numel() * p.element_size() for p in clip.parameters()) / 2**30
        del clip
        command = [sys.executable, "-m", "igsp_deploy.cli.main", "export", str(model), str(bundle), "--no-latency"]
        subprocess.run([*command, "--check-images", str(given.check_images)], check=True, stdout=subprocess.DEVNULL)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    times = (peak - 1) / weights
    print(f"{given.backbone}: weights {weights:.2f} GiB, peak {peak:.2f} GiB: {times:.2f} times the weights and 1 GiB")


if __name__ == "__main__":
    main()
