"""`igsp predict`: classify images with a bundle. Torch is not needed."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from igsp_deploy.cli.options import Bundle, ProviderOption, check_provider

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from igsp_deploy.runtime.classifier import Classifier, Prediction

EXAMPLES = """Examples:

igsp predict bundle photo.jpg

igsp predict bundle photos/ --task flowers --top-k 3 --json

igsp predict hf:me/shoes@v2 photo.jpg

igsp predict bundle photo.jpg --explain parts.png

igsp predict bundle photos/ --min-score 0.6 --csv labels.csv

igsp predict bundle photo.jpg --prompts "cat, dog"

igsp predict bundle photo.jpg --prompts "red, green" --template "a {} boot" """


def predict(
    bundle: Bundle,
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Image files, or folders of them.")],
    task: Annotated[
        str, typer.Option(metavar="auto|NAME|none", help="Choose the task for each image, name it, or use plain CLIP.")
    ] = "auto",
    prompts: Annotated[
        str | None, typer.Option(metavar='"A, B"', help="Choose among these words or sentences, separated by commas.")
    ] = None,
    template: Annotated[
        str | None,
        typer.Option(
            metavar='"... {} ..."',
            help='Put this around every prompt; "{}" leaves them as they are. '
            'Default: "a photo of a {}." around those that are no sentences.',
        ),
    ] = None,
    top_k: Annotated[int, typer.Option(min=1, help="Labels to print for an image.")] = 5,
    min_score: Annotated[
        float, typer.Option(min=0, max=1, help="Say unsure where the best label's probability is lower.")
    ] = 0.0,
    csv: Annotated[Path | None, typer.Option(metavar="FILE.csv", help="Write a row for each image.")] = None,
    explain: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.png",
            help="For one IMAGE: colour the parts that its first label hangs on (asks 49 times more).",
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
    provider: ProviderOption = "auto",
) -> None:
    """Say what is in each IMAGE.

    An image that cannot be read gets a line on stderr; the others are classified, and the exit code is 1.
    """
    import json as json_format

    chosen = check_provider(provider)

    from igsp_deploy.errors import UsageError, UserError
    from igsp_deploy.files import check_places, write_bytes_atomic
    from igsp_deploy.runtime.classifier import BATCH, Classifier
    from igsp_deploy.runtime.image_files import find_images
    from igsp_deploy.runtime.prompts import check_template
    from igsp_deploy.runtime.table import row_of, row_of_problem, to_csv

    if template is not None:
        if prompts is None:
            raise UsageError("--template goes around --prompts: give them too.")
        template = check_template(template)
    paths = find_images(images, lambda text: print(text, file=sys.stderr))
    if explain is not None:
        _check_explain(explain, paths)
    check_places(csv, explain)
    classifier = Classifier.open(bundle, chosen)
    classifier.task_index(task)  # a wrong name is said before anything is decoded
    texts = None if prompts is None else [text.strip() for text in prompts.split(",")]
    for text in classifier.cut_prompts(texts, template) if texts else ():
        length = classifier.manifest.backbone.context_length
        print(f"this prompt is longer than the {length} tokens that are read, and is cut: {text}", file=sys.stderr)
    results: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    for start in range(0, len(paths), BATCH):
        _show_progress(start, len(paths))
        batch: list[dict[str, Any]] = [{"image": str(path)} for path in paths[start : start + BATCH]]
        pixels = []
        for result in batch:
            try:
                pixels.append(classifier.load(Path(result["image"])))
            except UserError as error:
                result["error"] = str(error)
        readable = [result for result in batch if "error" not in result]
        for index, found in enumerate(classifier.classify(pixels, task, texts, top_k, template, min_score)):
            readable[index].update(found.to_json())
            readable[index]["row"] = row_of(readable[index]["image"], found)
            if explain is not None:
                told = _explain(explain, classifier, pixels[index], found, texts, template)
                print(f"{explain}: {told}", file=sys.stderr)
        _show_progress(len(paths), len(paths))
        for result in batch:
            problem = result.get("error", "")
            rows.append(row_of_problem(result["image"], problem) if problem else result.pop("row"))
            if problem:
                print(f"error: {result['error']}", file=sys.stderr)
            elif not json:
                print(_line(result))
        results += batch
    if csv is not None:
        write_bytes_atomic(csv, to_csv(rows))
        print(f"{csv}: {len(rows)} images", file=sys.stderr)
    if json:
        print(json_format.dumps(results, indent=2))
    if any("error" in result for result in results):
        raise typer.Exit(1)


def _check_explain(out: Path, paths: list[Path]) -> None:
    from igsp_deploy.errors import UsageError

    if len(paths) != 1:
        raise UsageError(f"--explain is for one image, got {len(paths)}.")
    if out.suffix.lower() != ".png":
        raise UsageError(f"--explain writes a PNG: name it so, for example {out.stem or 'parts'}.png, got {out}.")


def _explain(
    out: Path,
    classifier: "Classifier",
    pixels: "NDArray[np.uint8]",
    found: "Prediction",
    prompts: list[str] | None,
    template: str | None,
) -> str:
    """Write the picture; what it shows, in a line."""
    from igsp_deploy.files import write_bytes_atomic
    from igsp_deploy.runtime.explain import draw, explain

    explanation = explain(classifier, pixels, found, prompts=prompts, template=template)
    write_bytes_atomic(out, draw(pixels, explanation))
    return str(explanation)


def _line(result: dict[str, Any]) -> str:
    """One image for people: `photo.jpg: rose 93.1 %, tulip 4.0 % (task flowers)`."""
    labels = []
    for found in result["predictions"]:
        of = f" of {found['task']}" if result["zero_shot"] and found["task"] else ""
        labels.append(f"{found['label']}{of} {100 * found['score']:.1f} %")
    how = "zero-shot" if result["zero_shot"] else f"task {result['task']}"
    unsure = "unsure, " if result["unsure"] else ""
    return f"{result['image']}: {unsure}{', '.join(labels)} ({how})"


def _show_progress(done: int, total: int) -> None:
    """A counter on a terminal's stderr, wiped at the end; nothing elsewhere."""
    if total > 64 and sys.stderr.isatty():
        text = "" if done >= total else f"{done}/{total} images"
        print(f"\r{text:<30}\r", end="", file=sys.stderr, flush=True)
