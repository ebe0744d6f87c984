"""The presets that come with the package."""

from pathlib import Path

from igsp_deploy.errors import UserError


def preset_path(name: str) -> Path:
    """The file of a preset, in the installed package or beside it in the repository.

    Raises:
        UserError: there is none of that name.
    """
    package = Path(__file__).resolve().parent
    for folder in (package / "presets", package.parent / "presets"):
        if (folder / f"{name}.yaml").is_file():
            return folder / f"{name}.yaml"
    raise UserError(f"the preset {name} is not installed. Install igsp-deploy again.")
