"""A zip of training images that a stranger sent: looked at before anything is unpacked, then unpacked under our names.

Nothing of the archive's own paths reaches the disk but the names of class folders, once they were checked.
"""

import shutil
import stat
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from igsp_deploy.data.layout import arrange
from igsp_deploy.errors import UserError
from igsp_deploy.runtime.image_files import SUFFIXES, is_system

ARCHIVES = frozenset({".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar", ".zst"})
LEAST_IMAGES = 3
"""Images a class: one to learn from, one to validate, one to test."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What is taken from a stranger."""

    files: int = 5000
    """Files in an archive."""
    unpacked_bytes: int = 1 << 30
    """All files unpacked."""
    file_bytes: int = 64 << 20
    """One file unpacked."""
    ratio: int = 100
    """Unpacked size over packed size of a file: images are compressed already, a zip bomb is not."""
    classes: int = 200
    """Classes of one task."""


@dataclass(frozen=True, kw_only=True)
class Member:
    """One image of an archive."""

    entry: zipfile.ZipInfo
    split: str
    label: str


def read_archive(path: Path, limits: Limits | None = None) -> list[Member]:
    """Look through a zip: `CLASS/*.jpg`, or `train/CLASS/*.jpg` and `test/CLASS/*.jpg`, perhaps in one folder more.

    Args:
        path: the file.
        limits: what is taken.

    Returns:
        Its images; other files are passed over.

    Raises:
        UserError: what is wrong with it and what to do.
    """
    limits = limits or Limits()
    try:
        with zipfile.ZipFile(path) as archive:
            entries = [entry for entry in archive.infolist() if not entry.is_dir()]
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise UserError(
            "This is not a zip archive, or it is damaged. Put one folder of images for each class into a .zip file."
        ) from error
    if len(entries) > limits.files:
        raise UserError(f"The zip holds {len(entries):,} files; at most {limits.files:,} are taken. Send fewer images.")
    images = []
    for entry in entries:
        parts = _check_path(entry)
        if any(is_system(part) for part in parts):
            continue
        suffix = PurePosixPath(parts[-1]).suffix.lower()
        if suffix in ARCHIVES:
            raise UserError(f"The zip holds another archive, {parts[-1]!r}. Unpack it first and zip its folders.")
        if suffix in SUFFIXES:
            _check_entry(entry, limits)
            images.append((entry, parts))
    total = sum(entry.file_size for entry, _ in images)
    if total > limits.unpacked_bytes:
        raise UserError(
            f"Unpacked, the zip would take {total >> 20:,} MiB; at most {limits.unpacked_bytes >> 20:,} are taken. "
            "Send fewer or smaller images."
        )
    if not images:
        raise UserError(f"The zip holds no images ({', '.join(sorted(SUFFIXES))}). Put one folder a class into it.")
    members = _members(images)
    check_classes({label: sum(m.label == label for m in members) for label in {m.label for m in members}}, limits)
    return members


def unpack(path: Path, members: Iterable[Member], folder: Path) -> None:
    """Write the images as `folder/SPLIT/CLASS/00000.jpg`, or without the split where the archive has none.

    Raises:
        UserError: the archive is damaged or has a password; `folder` is removed again.
    """
    members = list(members)
    split = any(member.split for member in members)
    try:
        with zipfile.ZipFile(path) as archive:
            for number, member in enumerate(members):
                place = folder / (member.split or "train") / member.label if split else folder / member.label
                place.mkdir(parents=True, exist_ok=True)
                suffix = PurePosixPath(member.entry.filename).suffix.lower()
                with archive.open(member.entry) as source, open(place / f"{number:05d}{suffix}", "wb") as target:
                    shutil.copyfileobj(source, target, 1 << 20)
    except (zipfile.BadZipFile, OSError, EOFError, RuntimeError, NotImplementedError, ValueError) as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise UserError(f"The zip cannot be unpacked ({error}). Make it again.") from error


def check_label(label: str) -> str:
    """Return the name of a class if it may be the name of a folder.

    Raises:
        UserError: it is empty, too long, or holds a separator.
    """
    label = label.strip()
    if not label or len(label) > 100 or label.startswith((".", "__")) or any(c in '/\\:\0\n\r"<>|?*' for c in label):
        raise UserError(
            f"{label[:40]!r} cannot be the name of a class: use 1 to 100 letters, digits, spaces, - and _, "
            "and no dot at the start."
        )
    return label


def check_classes(counts: Mapping[str, int], limits: Limits | None = None) -> None:
    """Whether these classes, with their numbers of images, make a task.

    Raises:
        UserError: fewer than two, too many, or one with too few images.
    """
    limits = limits or Limits()
    if len(counts) < 2:
        only = f"only one, {next(iter(counts))!r}" if counts else "none"
        raise UserError(f"A task needs at least two classes to tell apart; here is {only}. Add images of another.")
    if len(counts) > limits.classes:
        raise UserError(f"These are {len(counts):,} classes; at most {limits.classes} are taught here.")
    poor = sorted((count, label) for label, count in counts.items() if count < LEAST_IMAGES)
    if poor:
        raise UserError(
            f"Class {poor[0][1]!r} has {poor[0][0]} images; each class needs at least {LEAST_IMAGES} "
            "(some are held out to measure). Add more, ten or more are better."
        )


def _check_path(entry: zipfile.ZipInfo) -> list[str]:
    name = entry.filename.replace("\\", "/")
    parts = name.split("/")
    if name.startswith("/") or ".." in parts or ":" in parts[0] or "\0" in entry.orig_filename:
        raise UserError(
            f"The zip names a place outside itself ({entry.filename[:60]!r}); nothing was unpacked. Zip the class "
            "folders themselves."
        )
    mode = entry.external_attr >> 16
    if mode and stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        raise UserError(f"The zip holds a link ({entry.filename[:60]!r}). Put the images themselves into it.")
    return [part for part in parts if part not in ("", ".")]


def _check_entry(entry: zipfile.ZipInfo, limits: Limits) -> None:
    if entry.flag_bits & 1:
        raise UserError("The zip has a password. Make it again without one.")
    if entry.file_size > limits.file_bytes:
        raise UserError(
            f"{entry.filename[-60:]!r} has {entry.file_size >> 20:,} MiB; at most {limits.file_bytes >> 20} an image "
            "are taken. Scale it down."
        )
    if entry.file_size > limits.ratio * max(1, entry.compress_size) and entry.file_size > 1 << 20:
        raise UserError(f"{entry.filename[-60:]!r} is packed too tightly to be an image; nothing was unpacked.")


def _members(images: list[tuple[zipfile.ZipInfo, list[str]]]) -> list[Member]:
    """Which split and class each image is of, told as for folders."""
    entries = {tuple(parts): entry for entry, parts in images}
    found = arrange(sorted(entries), [], "The zip")
    outside = [entry for entry in found.passed_over if entry.label is None]
    if outside:
        raise UserError(
            f"{len(outside)} of {len(images)} images lie outside a class folder. Put one folder for each class into "
            "the zip, for example cat/1.jpg and dog/1.jpg."
        )
    return [
        Member(entry=entries[parts], split=split if found.has_splits else "", label=check_label(label))
        for split, classes in found.splits.items()
        for label, files in classes.items()
        for parts in files
    ]
