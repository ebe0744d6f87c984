"""A folder of class folders, with or without train, val and test above them."""

from dataclasses import dataclass
from pathlib import Path

from igsp_deploy.data.layout import PassedOver, arrange
from igsp_deploy.runtime.image_files import walk

ClassFiles = dict[str, list[Path]]
"""Class name -> its image files, both sorted."""


@dataclass(frozen=True)
class ReadFolder:
    """What a folder holds.

    Attributes:
        splits: split -> class -> files; all in `train` where the folder has no splits.
        passed_over: files that are not used.
        notes: what a person should know of it.
    """

    splits: dict[str, ClassFiles]
    passed_over: list[PassedOver]
    notes: list[str]


def read_image_folder(folder: Path) -> ReadFolder:
    """List the images of a folder (see `arrange` for what is understood). Images may lie deeper in a class folder.

    Raises:
        UserError: no class folders, a class without images, or a layout that cannot be told for sure.
    """
    walked = walk(folder)
    found = arrange(walked.files, walked.folders, str(folder))
    splits = {
        split: {label: [folder.joinpath(*parts) for parts in files] for label, files in classes.items()}
        for split, classes in found.splits.items()
    }
    odd = [PassedOver(parts, parts[-2] if len(parts) > 1 else None, reason) for parts, reason in walked.odd]
    return ReadFolder(splits, [*found.passed_over, *odd], found.notes)
