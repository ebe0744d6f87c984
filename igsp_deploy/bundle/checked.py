"""Files of a bundle that are what the manifest says, from their check to the moment they have been read."""

from collections.abc import Collection
from pathlib import Path

from igsp_deploy.bundle.manifest import Manifest, check_files
from igsp_deploy.errors import UserError


class CheckedFiles:
    """Checksums compared once, and what the file system says of the files, to see whether they stayed as they were.

    A folder can be replaced between its check and the opening of a file in it. So what opens a file calls
    `require_unchanged` afterwards: the same file, untouched since before the check, is the file that was checked.
    """

    def __init__(self, folder: Path, manifest: Manifest, names: Collection[str] | None = None) -> None:
        """Compare files with their recorded size and SHA-256.

        Args:
            folder: the bundle.
            manifest: its manifest.
            names: files to compare; all by default.

        Raises:
            UserError: a file is missing, truncated or changed; names it.
        """
        self._folder = folder
        # Before the check: a change during it shows too.
        self._seen = {name: _look(folder / name) for name in manifest.files if names is None or name in names}
        check_files(folder, manifest, names)

    def require_unchanged(self, names: Collection[str] | None = None) -> None:
        """See that files are still the ones that were checked.

        Args:
            names: files; all that were checked by default.

        Raises:
            UserError: one was replaced, changed or removed since.
        """
        for name, seen in self._seen.items():
            if (names is None or name in names) and _look(self._folder / name) != seen:
                raise UserError(
                    f"{self._folder / name} was changed or removed after it was checked. Open the bundle again, and "
                    "put a new one beside it rather than in its place."
                )


def _look(path: Path) -> tuple[int, ...] | None:
    """What differs when a file is replaced or written to; None where there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
