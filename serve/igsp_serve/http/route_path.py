"""The path of a request as the router sees it: what every layer before the router decides by."""

from starlette.types import Scope


def route_path(scope: Scope) -> str:
    """Path without the prefix of a proxy (`--root-path`), whether the proxy strips it or passes it on.

    It must be what Starlette's router makes of it: a layer that read another path than the router could be passed by.
    """
    path, prefix = str(scope.get("path", "")), str(scope.get("root_path", ""))
    if prefix and (path == prefix or path.startswith(f"{prefix}/")):
        return path[len(prefix) :]
    return path


def is_under(path: str, root: str) -> bool:
    """`path` is `root` or below it."""
    return path == root or path.startswith(f"{root}/")
