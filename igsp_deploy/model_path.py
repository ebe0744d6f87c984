"""Whether a path is a model folder: the question every command that takes a MODEL asks first. Needs no torch."""

from pathlib import Path

from igsp_deploy.errors import UserError


def require_model(path: Path) -> None:
    """Refuse what does not look like a model folder.

    Raises:
        UserError: it is absent, a bundle, or something else; says which and what to give.
    """
    if (path / "config.json").is_file():
        return
    if not path.exists():
        raise UserError(
            f"{path} is not a model folder: it does not exist. "
            f"`igsp train {path} --task NAME=FOLDER` makes one of that name."
        )
    if (path / "manifest.json").is_file():
        raise UserError(f"{path} is not a model folder but a bundle. Give the model folder it was exported from.")
    raise UserError(f"{path} is not a model folder (it has no config.json). Give the folder that `igsp train` made.")
