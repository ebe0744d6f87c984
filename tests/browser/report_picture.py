"""The picture of a report for the README: python -m tests.browser.report_picture MODEL docs/images/report.png"""

import argparse
import io
import tempfile
from pathlib import Path

from PIL import Image

from igsp_deploy.files import write_bytes_atomic
from igsp_train.report import make_report
from tests.browser.chromium import chromium

LIMIT_BYTES = 200_000
_GAP = 16


def picture(page_path: Path, width: int) -> Image.Image:
    """The accuracy matrix, the growth and some examples of a report, one under the other."""
    parts = []
    with chromium() as browser:
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme="light")
        page.goto(page_path.as_uri())
        # What a README has room for: the summary, one matrix, the curve, and the examples of two tasks.
        page.add_style_tag(
            content="#accuracy h3:nth-of-type(n+2), #accuracy h3:nth-of-type(n+2) ~ *, #growth .scroll, #growth .note,"
            "#examples h3:nth-of-type(n+3), #examples h3:nth-of-type(n+3) ~ * { display: none; }"
        )
        for section in ("accuracy", "growth", "examples"):
            parts.append(Image.open(io.BytesIO(page.locator(f"#{section}").screenshot())).convert("RGB"))
    height = sum(part.height for part in parts) + _GAP * (len(parts) + 1)
    whole = Image.new("RGB", (max(part.width for part in parts) + 2 * _GAP, height), (251, 251, 250))
    top = _GAP
    for part in parts:
        whole.paste(part, (_GAP, top))
        top += part.height + _GAP
    return whole


def main() -> None:
    """Make the report and the picture; the picture has fewer colours the larger it is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--evaluation", type=Path, help="output of `igsp evaluate MODEL --json`")
    parser.add_argument("--width", type=int, default=820)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = make_report(arguments.model, Path(folder) / "report.html", evaluation=arguments.evaluation, images=5)
        whole = picture(report, arguments.width)
    for colors in (256, 128, 64, 32):
        buffer = io.BytesIO()
        whole.quantize(colors, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
        if buffer.tell() < LIMIT_BYTES:
            break
    else:
        raise SystemExit(f"error: the picture has {buffer.tell()} bytes, more than {LIMIT_BYTES}; lower --width")
    write_bytes_atomic(arguments.out, buffer.getvalue())
    print(f"{arguments.out}: {whole.width} x {whole.height}, {buffer.tell()} bytes")


if __name__ == "__main__":
    main()
