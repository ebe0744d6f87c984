"""A Hugging Face Space: a folder with the bundle, the page's start and what the Hub reads."""

import shutil
from pathlib import Path

from igsp_deploy.bundle.manifest import Manifest, check_files, read_manifest
from igsp_deploy.errors import UserError
from igsp_deploy.files import new_folder, write_json
from igsp_deploy.installed import requirement_line
from igsp_deploy.runtime.image_files import find_images
from igsp_serve.demo.learned import read_evaluation

APP = '''"""The page of a Hugging Face Space; Spaces run this file and look at port 7860."""

import os
from pathlib import Path

from igsp_serve.demo.serve import run_demo

HERE = Path(__file__).resolve().parent
EXAMPLES = HERE / "examples"

if __name__ == "__main__":
    run_demo(
        HERE / "bundle",
        host="0.0.0.0",
        port=int(os.environ.get("PORT", "7860")),
        evaluation=HERE / "evaluation.json",
        examples=EXAMPLES if EXAMPLES.is_dir() else None,
    )
'''


def write_space(bundle: Path, space: Path, *, evaluation: Path | None = None, examples: Path | None = None) -> None:
    """Write a folder that can be pushed to a Space as it is.

    Args:
        bundle: copied into it, whole.
        space: the folder; must not exist yet.
        evaluation: output of `igsp evaluate --json`; names of files in it stay here.
        examples: images to try out.

    Raises:
        UserError: the bundle is damaged, the evaluation is none, or the folder exists or cannot be written.
    """
    manifest = read_manifest(bundle)
    check_files(bundle, manifest)
    files = find_images([examples]) if examples is not None else []
    with new_folder(space) as scratch:
        try:
            shutil.copytree(bundle, scratch / "bundle")
            if evaluation is not None:
                write_json(scratch / "evaluation.json", read_evaluation(evaluation))
            if files:
                (scratch / "examples").mkdir()
            for number, path in enumerate(files):
                shutil.copyfile(path, scratch / "examples" / f"{number:03d}{path.suffix.lower()}")
        except shutil.Error as error:
            raise UserError(f"{bundle} cannot be copied ({error}). Check that you may read it.") from error
        (scratch / "app.py").write_text(APP, encoding="utf-8")
        (scratch / "requirements.txt").write_text(requirement_line("demo,cpu") + "\n", encoding="utf-8")
        (scratch / ".gitattributes").write_text(
            "".join(f"*.{kind} filter=lfs diff=lfs merge=lfs -text\n" for kind in ("onnx", "data", "safetensors")),
            encoding="utf-8",
        )
        (scratch / "README.md").write_text(_readme(manifest), encoding="utf-8")


def _readme(manifest: Manifest) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        gradio = version("gradio")
    except PackageNotFoundError:
        gradio = "6.29.1"
    tasks = ", ".join(f"{task.name} ({len(task.classes)} classes)" for task in manifest.tasks)
    return f"""---
title: One model that keeps learning
emoji: 🧩
colorFrom: green
colorTo: blue
sdk: gradio
sdk_version: {gradio}
python_version: "3.11"
app_file: app.py
pinned: false
license: apache-2.0
short_description: One CLIP, many tasks, learned one after another
---

# One model that keeps learning

One frozen CLIP ({manifest.backbone.name}) that learned these tasks one after another, without forgetting any: {tasks}.

`app.py` serves the bundle in `bundle/` with igsp-deploy; torch is not needed. To run it here:

    pip install -r requirements.txt
    python app.py
"""
