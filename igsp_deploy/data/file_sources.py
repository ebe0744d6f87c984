"""Sources that are files: a folder of class folders, or a manifest that lists images."""

from dataclasses import dataclass
from pathlib import Path

from igsp_deploy.data.class_names import load_class_names
from igsp_deploy.data.image_folder import read_image_folder
from igsp_deploy.data.listing import Listing, check_classes, items_by_class
from igsp_deploy.data.manifest import read_manifest


@dataclass(frozen=True)
class FolderSource:
    """A folder of class folders (see `read_image_folder`), with an optional `classes.json`."""

    path: Path

    def canonical(self) -> str:
        """The absolute path."""
        return str(self.path)

    def read(self) -> Listing:
        """List the folder."""
        found = read_image_folder(self.path)
        classes = check_classes(str(self.path), {name: set(files) for name, files in found.splits.items()})
        names = load_class_names(self.path / "classes.json", classes)
        items = items_by_class(found.splits, classes)
        return Listing(classes, items, names, self.path, found.passed_over, found.notes)


@dataclass(frozen=True)
class ManifestSource:
    """A CSV or Parquet manifest `NAME.csv` (see `read_manifest`) with an optional `NAME.classes.json` beside it."""

    path: Path

    def canonical(self) -> str:
        """The absolute path."""
        return str(self.path)

    def read(self) -> Listing:
        """List the manifest."""
        splits = read_manifest(self.path)
        classes = check_classes(str(self.path), {name: set(files) for name, files in splits.items()})
        names = load_class_names(self.path.with_suffix(".classes.json"), classes)
        return Listing(classes, items_by_class(splits, classes), names, self.path.parent)
