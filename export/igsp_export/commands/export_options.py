"""Which options of `igsp export` go together, and what is made of a finished bundle."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from igsp_deploy.errors import UsageError, UserError

ON_CPU, ON_GPU = ("fp32", "int8"), ("fp16", "fp32")
"""Graphs that the page of --web and a server of --triton can run."""


@dataclass(frozen=True, kw_only=True)
class Shapes:
    """What is made of a bundle: folders, and a repository on the Hub."""

    standalone: Path | None
    web: Path | None
    triton: Path | None
    device: str
    push: str | None
    private: bool

    def given(self) -> list[str]:
        """Options that were given."""
        folders = [f"--{name}" for name, folder in self.folders().items() if folder is not None]
        return folders + (["--push"] if self.push is not None else [])

    def any(self) -> bool:
        """Whether there is anything to make."""
        return bool(self.given())

    def folders(self) -> dict[str, Path | None]:
        """Folders to make."""
        return {"standalone": self.standalone, "web": self.web, "triton": self.triton}

    def check(self, bundle: Path, precision: Sequence[str]) -> None:
        """Refuse what cannot be made of a bundle with graphs of `precision`, before anything long begins.

        Raises:
            UsageError: a folder exists or is where another one is to be, or options do not go together.
            UserError: the Hub cannot be reached, or the token may not write there.
        """
        if self.device not in ("gpu", "cpu"):
            raise UsageError(f"--triton-device must be gpu or cpu, got {self.device!r}.")
        made = [bundle.resolve()]
        for name, folder in self.folders().items():
            if folder is None:
                continue
            if folder.exists():
                raise UsageError(f"--{name} {folder} exists already. Choose another folder or remove it.")
            if any(path.is_relative_to(folder.resolve()) for path in made):
                raise UsageError(f"--{name} {folder} is where another folder is to be made. Choose another one.")
            made.append(folder.resolve())
        for name, fitting in {"web": ON_CPU, "triton": ON_CPU if self.device == "cpu" else ON_GPU}.items():
            if self.folders()[name] is not None and not set(precision) & set(fitting):
                raise UsageError(
                    f"--{name} needs graphs in {' or '.join(fitting)}, got {' and '.join(precision)}. "
                    "Add --precision fp32."
                )
        if self.private and self.push is None:
            raise UsageError("--private goes with --push USER/NAME.")
        if self.push is not None:
            from igsp_export.hub import check_push

            check_push(self.push, private=self.private)


def check_folder(bundle: Path, model: Path, shapes: Shapes) -> None:
    """Refuse the name of a repository where a folder is to be made, and folders where the model's tasks are.

    Raises:
        UsageError: `bundle` begins with `hf:`; or a folder would be taken for a task, and the model for a damaged one.
    """
    from igsp_deploy.bundle.fetch import PREFIX

    if str(bundle).startswith(PREFIX):
        raise UsageError(f"BUNDLE is a folder to make, got {bundle}. Give a folder, and the repository as --push NAME.")
    for folder in filter(None, (bundle, *shapes.folders().values())):
        if folder.resolve().is_relative_to((model / "tasks").resolve()):
            raise UsageError(f"{folder} is where {model} keeps its tasks. Choose a folder outside of it.")


def check_fold(
    fold: str | None, batch: int | None, with_text: bool, experts: str | None, onnx_adapter: bool, shapes: Shapes
) -> None:
    """Refuse what does not go with `--fold`, and what goes with nothing else.

    Raises:
        UsageError: names the options.
    """
    if fold is not None:
        others = {"--onnx-adapter": onnx_adapter, "--experts": experts is not None}
        given = [*(name for name, value in others.items() if value), *shapes.given()]
        if given:
            raise UsageError(f"--fold writes one task instead of a bundle: leave {' and '.join(given)} away.")
    elif batch is not None or with_text:
        raise UsageError("--batch and --with-text go with --fold TASK; a bundle takes any batch, and texts.")


def make_shapes(bundle: Path, shapes: Shapes) -> dict[str, Any]:
    """Make of a finished bundle what was asked for.

    Returns:
        By name: the folder and what is in it; `pushed`: the address.

    Raises:
        UserError: one cannot be made; says what stays.
    """
    from igsp_export.shapes import write_standalone, write_triton_repository
    from igsp_export.web import write_web

    found: dict[str, Any] = {}
    try:
        if shapes.standalone is not None:
            files = write_standalone(bundle, shapes.standalone)
            found["standalone"] = {"folder": str(shapes.standalone), "files": files}
        if shapes.web is not None:
            found["web"] = {"folder": str(shapes.web), "files": write_web(bundle, shapes.web)}
        if shapes.triton is not None:
            models = write_triton_repository(bundle, shapes.triton, shapes.device)
            found["triton"] = {"folder": str(shapes.triton), "models": models}
        if shapes.push is not None:
            from igsp_export.hub import push

            found["pushed"] = push(bundle, shapes.push, private=shapes.private)
    except UserError as error:
        made = [str(bundle), *(value["folder"] for value in found.values())]
        done = "".join(f" without --{name}" for name in found)
        raise type(error)(
            f"{error} Whole and left where they are: {', '.join(made)}. Repeat the command{done} to make the rest."
        ) from error
    return found
