"""What installed packages bring, by the name of their entry point."""

from importlib.metadata import EntryPoint, entry_points
from typing import Any

from igsp_deploy.errors import UserError


def installed_names(group: str) -> list[str]:
    """Names that packages have in a group of entry points, without loading any."""
    return [point.name for point in entry_points(group=group)]


def load_installed(group: str, what: str) -> dict[str, Any]:
    """All that packages bring in a group, by name.

    Args:
        group: of entry points.
        what: one of them is called in messages.

    Raises:
        UserError: see `load_one`.
    """
    return {name: load_one(group, name, what) for name in installed_names(group)}


def load_one(group: str, name: str, what: str) -> Any:
    """What a package brings under `name`.

    Raises:
        UserError: two packages have the name, or it cannot be loaded; says which package.
    """
    points = [point for point in entry_points(group=group) if point.name == name]
    if len(points) > 1:
        names = " and ".join(_package(point) for point in points)
        raise UserError(f"the packages {names} both bring a {what} {name!r}. Uninstall one of them.")
    try:
        return points[0].load()
    except Exception as error:  # whatever a package of others raises
        raise UserError(
            f"{described(group, name, what)} cannot be loaded ({error}). Repair the package or uninstall it."
        ) from error


def described(group: str, name: str, what: str) -> str:
    """Which one of which package, for messages."""
    (point,) = [point for point in entry_points(group=group) if point.name == name]
    return f"the {what} {name!r} of the package {_package(point)}"


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist else point.value
