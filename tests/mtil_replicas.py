"""Small replicas of the eleven MTIL sets, each in the layout and the annotation formats of the real one.

Three classes a set, told apart by colour: class k of a set is red, green or blue for k = 0, 1, 2.
"""

import hashlib
import json
import pickle
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.io import savemat

TRAIN, TEST = 7, 3
"""Images a class. Sets that are split at random have all of them in one place."""

CLASSES: dict[str, tuple[str, str, str]] = {
    "aircraft": ("707-320", "A300B4", "F-16A/B"),
    "caltech101": ("Faces", "Faces_easy", "yin_yang"),
    "cifar100": ("apple", "aquarium_fish", "worm"),
    "dtd": ("banded", "polka-dotted", "zigzagged"),
    "eurosat": ("AnnualCrop", "River", "SeaLake"),
    "flowers102": ("pink primrose", "ball moss", "blackberry lily"),
    "food101": ("apple_pie", "cheese_plate", "waffles"),
    "mnist": ("0 - zero", "1 - one", "2 - two"),
    "oxfordpet": ("Abyssinian", "American Bulldog", "American Pit Bull Terrier"),
    "stanfordcars": ("AM General Hummer SUV 2000", "Acura RL Sedan 2012", "Ram C/V Cargo Van Minivan 2012"),
    "sun397": ("abbey", "apse/indoor", "youth_hostel"),
}
"""The classes of each replica as its real files name them, in label order."""


def pixels(channel: int, number: int, size: int = 32) -> NDArray[np.uint8]:
    """A noisy picture in one colour."""
    picture = np.random.default_rng(1000 * channel + number).integers(0, 60, (size, size, 3), dtype=np.uint8)
    picture[..., channel] += 160
    return picture


def _save(path: Path, channel: int, number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(channel, number)).save(path, quality=95)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def _entries() -> list[tuple[str, int, int]]:
    """(split, class, number) of every image."""
    return [
        ("train" if number < TRAIN else "test", channel, number)
        for channel in range(3)
        for number in range(TRAIN + TEST)
    ]


def aircraft(root: Path) -> None:
    folder, names = root / "fgvc-aircraft-2013b" / "data", CLASSES["aircraft"]
    _write(folder / "variants.txt", "".join(f"{name}\n" for name in names))
    for split in ("train", "test"):
        rows = [(channel, number) for part, channel, number in _entries() if part == split]
        _write(folder / f"images_variant_{split}.txt", "".join(f"{c}{n:06d} {names[c]}\n" for c, n in reversed(rows)))
        for c, n in rows:
            _save(folder / "images" / f"{c}{n:06d}.jpg", c, n)


def caltech101(root: Path) -> None:
    folder = root / "caltech101" / "101_ObjectCategories"
    _save(folder / "BACKGROUND_Google" / "image_0001.jpg", 0, 99)
    for _, c, n in _entries():
        _save(folder / CLASSES["caltech101"][c] / f"image_{n + 1:04d}.jpg", c, n)


def cifar100(root: Path) -> None:
    folder = root / "cifar-100-python"
    folder.mkdir(parents=True)
    places = (0, 1, 99)
    for split in ("train", "test"):
        rows = [(c, n) for part, c, n in _entries() if part == split]
        content = {
            "data": np.stack([pixels(c, n).transpose(2, 0, 1).reshape(-1) for c, n in rows]),
            "fine_labels": [places[c] for c, _ in rows],
            "coarse_labels": [0 for _ in rows],
            "filenames": [f"{c}_{n}.png" for c, n in rows],
        }
        (folder / split).write_bytes(pickle.dumps(content))
    names = [f"class_{index}" for index in range(100)]
    for place, name in zip(places, CLASSES["cifar100"], strict=True):
        names[place] = name
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": names, "coarse_label_names": ["all"]}))


def dtd(root: Path) -> None:
    folder, names = root / "dtd" / "dtd", CLASSES["dtd"]
    for split in ("train", "val", "test"):
        rows = [(c, n) for part, c, n in _entries() if part == split]
        _write(folder / "labels" / f"{split}1.txt", "".join(f"{names[c]}/{names[c]}_{n:04d}.jpg\n" for c, n in rows))
        for c, n in rows:
            _save(folder / "images" / names[c] / f"{names[c]}_{n:04d}.jpg", c, n)


def eurosat(root: Path) -> None:
    for _, c, n in _entries():
        name = CLASSES["eurosat"][c]
        _save(root / "eurosat" / "2750" / name / f"{name}_{n + 1}.jpg", c, n)


def flowers102(root: Path) -> None:
    folder, places = root / "flowers-102", (1, 93, 102)
    ids: dict[str, list[int]] = {"train": [], "test": []}
    labels = []
    for number, (split, c, n) in enumerate(_entries(), start=1):
        _save(folder / "jpg" / f"image_{number:05d}.jpg", c, n)
        ids[split].append(number)
        labels.append(places[c])
    savemat(folder / "imagelabels.mat", {"labels": np.array([labels], dtype=np.uint8)})
    splits = {"trnid": ids["train"], "valid": ids["train"][:2], "tstid": ids["test"]}
    savemat(folder / "setid.mat", {key: np.array([value], dtype=np.uint16) for key, value in splits.items()})


def food101(root: Path) -> None:
    folder, names = root / "food-101", CLASSES["food101"]
    for split in ("train", "test"):
        rows = [(c, n) for part, c, n in _entries() if part == split]
        listed = {names[c]: [f"{names[c]}/{n}" for k, n in rows if k == c] for c in range(3)}
        _write(folder / "meta" / f"{split}.json", json.dumps(listed))
        for c, n in rows:
            _save(folder / "images" / names[c] / f"{n}.jpg", c, n)


def mnist(root: Path) -> None:
    folder = root / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for split, prefix in (("train", "train"), ("test", "t10k")):
        rows = [(c, n) for part, c, n in _entries() if part == split]
        # Grey images: class k is brightest in its third of the rows.
        images = np.zeros((len(rows), 28, 28), dtype=np.uint8)
        for index, (c, n) in enumerate(rows):
            images[index, 9 * c : 9 * c + 9] = 200 + n
        header = struct.pack(">IIII", 2051, len(rows), 28, 28)
        (folder / f"{prefix}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        labels = struct.pack(">II", 2049, len(rows)) + bytes(c for c, _ in rows)
        (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(labels)


def oxfordpet(root: Path) -> None:
    folder = root / "oxford-iiit-pet"
    names = ("Abyssinian", "american_bulldog", "american_pit_bull_terrier")
    for split, file in (("train", "trainval"), ("test", "test")):
        rows = [(c, n) for part, c, n in _entries() if part == split]
        _write(
            folder / "annotations" / f"{file}.txt",
            "".join(f"{names[c]}_{n} {c + 1} {1 if c == 0 else 2} {max(c, 1)}\n" for c, n in rows),
        )
        for c, n in rows:
            _save(folder / "images" / f"{names[c]}_{n}.jpg", c, n)


def stanfordcars(root: Path) -> None:
    folder = root / "stanford_cars"
    (folder / "devkit").mkdir(parents=True)
    kind = [(name, object) for name in ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "fname")]
    for split in ("train", "test"):
        rows = [(c, n) for part, c, n in _entries() if part == split]
        annotations = np.empty((1, len(rows)), dtype=kind)
        for index, (c, n) in enumerate(rows):
            name = f"{index + 1:05d}.jpg"
            annotations[0, index] = (1, 1, 30, 30, np.uint8(c + 1), name)
            _save(folder / f"cars_{split}" / name, c, n)
        path = folder / ("devkit/cars_train_annos.mat" if split == "train" else "cars_test_annos_withlabels.mat")
        savemat(path, {"annotations": annotations})
    names = np.empty((1, 3), dtype=object)
    names[0, :] = CLASSES["stanfordcars"]
    savemat(folder / "devkit" / "cars_meta.mat", {"class_names": names})


def sun397(root: Path) -> None:
    folder = root / "SUN397"
    _write(folder / "ClassName.txt", "".join(f"/{name[0]}/{name}\n" for name in CLASSES["sun397"]))
    for _, c, n in _entries():
        name = CLASSES["sun397"][c]
        _save(folder / name[0] / name / f"sun_{'zyxwvutsrqponm'[n]}{n}.jpg", c, n)


BUILDERS = {
    builder.__name__: builder
    for builder in (
        aircraft,
        caltech101,
        cifar100,
        dtd,
        eurosat,
        flowers102,
        food101,
        mnist,
        oxfordpet,
        stanfordcars,
        sun397,
    )
}


def build_replicas(root: Path, names: tuple[str, ...] = tuple(BUILDERS)) -> Path:
    """Write the replicas of `names` under `root`."""
    for name in names:
        BUILDERS[name](root)
    return root


def replica_checksums(root: Path) -> dict[str, Any]:
    """What torchvision's lists of checksums have to hold for the replicas: class -> attribute -> value."""

    def md5(path: Path) -> str:
        return hashlib.md5(path.read_bytes()).hexdigest() if path.exists() else ""

    cifar, flowers = root / "cifar-100-python", root / "flowers-102"
    return {
        "CIFAR100": {
            "train_list": [["train", md5(cifar / "train")]],
            "test_list": [["test", md5(cifar / "test")]],
            "meta": {"filename": "meta", "key": "fine_label_names", "md5": md5(cifar / "meta")},
        },
        "Flowers102": {
            "_file_dict": {
                "image": ["102flowers.tgz", ""],
                "label": ["imagelabels.mat", md5(flowers / "imagelabels.mat")],
                "setid": ["setid.mat", md5(flowers / "setid.mat")],
            }
        },
    }


def igsp_on_replicas(root: Path) -> list[str]:
    """Start of a command line: `igsp` in a process where torchvision expects the replicas' checksums."""
    code = (
        "import json, sys, torchvision.datasets as d\n"
        f"for name, values in json.loads({json.dumps(replica_checksums(root))!r}).items():\n"
        "    for key, value in values.items(): setattr(getattr(d, name), key, value)\n"
        "from igsp_deploy.cli.main import main\n"
        "main()"
    )
    return [sys.executable, "-c", code]
