"""Photos to measure decoding with: `python -m tests.bench.render_photos PICTURES OUT [--count 40] [--small]`.

They are no photos but small pictures made large: scaled up by Lanczos to 4000 x 3000 (12 megapixels), or with
`--small` to 320 x 240, with the grain of a sensor (deviation 4 of 255) over them, as JPEG of quality 92. So their files
are as large and as slow to decode as photos of a telephone; their finest detail is grain.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from igsp_deploy.runtime.image_files import find_images

LARGE, SMALL = (4000, 3000), (320, 240)
GRAIN, QUALITY = 4.0, 92


def render(picture: Path, out: Path, size: tuple[int, int], seed: int) -> None:
    """Write one photo."""
    with Image.open(picture) as opened:
        image = ImageOps.fit(opened.convert("RGB"), size, Image.Resampling.LANCZOS)
    random = np.random.default_rng(seed)
    tile = random.normal(0, GRAIN, (500, 500, 3)).astype(np.float32)
    repeats = (-(-size[1] // 500), -(-size[0] // 500), 1)
    grain = np.tile(tile, repeats)[: size[1], : size[0]]
    Image.fromarray(np.clip(np.asarray(image) + grain, 0, 255).astype(np.uint8)).save(out, quality=QUALITY)


def main() -> None:
    """Render `--count` photos, spread over all pictures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("pictures", type=Path, nargs="+")
    parser.add_argument("out", type=Path)
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--small", action="store_true")
    options = parser.parse_args()
    files = find_images(options.pictures)
    chosen = np.unique(np.linspace(0, len(files) - 1, min(options.count, len(files))).round().astype(int))
    options.out.mkdir(parents=True, exist_ok=True)
    size = SMALL if options.small else LARGE
    for number, index in enumerate(chosen.tolist()):
        render(files[index], options.out / f"{size[0]}-{number:04d}.jpg", size, number)
    print(f"{len(chosen)} photos of {size[0]} x {size[1]} in {options.out}")


if __name__ == "__main__":
    main()
