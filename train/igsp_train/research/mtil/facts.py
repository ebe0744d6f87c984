"""What is published about the eleven sets: sizes, splits, prompts, where they come from, what plain CLIP reaches.

Class names (`classes/*.txt`) and templates are those of CLIP's `data/prompts.md` as ZSCL's code uses them; the few that
differ between the two are ZSCL's, because the zero-shot figures were measured with them (docs/mtil.md lists them).
"""

import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

SPLIT_SEED = 42
"""Seed of the random 80/20 splits."""
SPLIT_SHARE = 0.8
"""Share of the images that a random split trains on."""


def plain_name(name: str) -> str:
    """Letters and digits of a class name in lower case, to recognise it however it is written."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


@dataclass(frozen=True, kw_only=True)
class BenchmarkSet:
    """One data set of the benchmark.

    Attributes:
        name: name of the task.
        title: name of the data set.
        torchvision: its class in `torchvision.datasets`.
        marker: folder under the data root by which torchvision's layout is known.
        files: what the layout must hold, relative to `marker`; annotation files and folders of images.
        split: torchvision's split of training, or `random` for 80/20 with seed 42.
        train_images: published number of training images.
        test_images: published number of test images.
        page: where to get it.
        fetch: how to put it there; `{root}` is the data root.
        templates: prompt templates; the first is used in training, all of them in testing.
        zero_shot: accuracy of plain CLIP ViT-B/16 (OpenAI) in percent, as ZSCL measured it.
    """

    name: str
    title: str
    torchvision: str
    marker: str
    files: tuple[str, ...] = ()
    split: Literal["train", "trainval", "random"] = "train"
    train_images: int
    test_images: int
    page: str
    fetch: str = ""
    templates: tuple[str, ...] = field(repr=False)
    zero_shot: float

    @cached_property
    def _rows(self) -> list[list[str]]:
        path = Path(__file__).parent / "classes" / f"{self.name}.txt"
        return [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]

    @property
    def classes(self) -> list[str]:
        """The classes as the data set calls them."""
        return [row[0] for row in self._rows]

    @property
    def display_names(self) -> list[str]:
        """What stands for each of `classes` in a prompt."""
        return [row[1] if len(row) > 1 else row[0].replace("_", " ") for row in self._rows]

    @cached_property
    def known(self) -> dict[str, int]:
        """Every way a class may be written, as `plain_name` -> its place in `classes`."""
        found: dict[str, int] = {}
        for index, row in enumerate(self._rows):
            for text in (*row, self.display_names[index]):
                found.setdefault(plain_name(text), index)
        return found

    def how_to_get(self, root: Path) -> str:
        """What to do to have this set in the data root."""
        return f"Get it from {self.page}: " + (self.fetch or _DOWNLOAD).format(root=root, kind=self.torchvision)


_DOWNLOAD = (
    "unpack it in {root}, or let torchvision do it: "
    "python -c \"from torchvision.datasets import {kind}; {kind}('{root}', download=True)\"."
)

_CIFAR = (
    "a photo of a",
    "a blurry photo of a",
    "a black and white photo of a",
    "a low contrast photo of a",
    "a high contrast photo of a",
    "a bad photo of a",
    "a good photo of a",
)

_RENDERINGS = (
    "a photo of {} {{}}.",
    "a painting of {} {{}}.",
    "{} plastic {{}}.",
    "a sculpture of {} {{}}.",
    "a sketch of {} {{}}.",
    "a tattoo of {} {{}}.",
    "{} toy {{}}.",
    "a rendition of {} {{}}.",
    "{} embroidered {{}}.",
    "{} cartoon {{}}.",
    "{} {{}} in a video game.",
    "{} plushie {{}}.",
    "{} origami {{}}.",
    "art of {} {{}}.",
    "graffiti of {} {{}}.",
    "a drawing of {} {{}}.",
    "a doodle of {} {{}}.",
)


def _with_articles(patterns: tuple[str, ...]) -> tuple[str, ...]:
    """Each pattern with "a", then each with "the"."""
    return tuple(pattern.format(article) for article in ("a", "the") for pattern in patterns)


_ALL = (
    BenchmarkSet(
        name="aircraft",
        title="FGVC Aircraft",
        torchvision="FGVCAircraft",
        marker="fgvc-aircraft-2013b",
        files=(
            "data/variants.txt",
            "data/images_variant_train.txt",
            "data/images_variant_test.txt",
            "data/images",
        ),
        train_images=3334,
        test_images=3333,
        page="https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/",
        templates=_with_articles(("a photo of {} {{}}, a type of aircraft.",)),
        zero_shot=24.3,
    ),
    BenchmarkSet(
        name="caltech101",
        title="Caltech-101",
        torchvision="Caltech101",
        marker="caltech101/101_ObjectCategories",
        split="random",
        train_images=6941,
        test_images=1736,
        page="https://data.caltech.edu/records/mzrjq-6wc02",
        templates=_with_articles(_RENDERINGS),
        zero_shot=88.4,
    ),
    BenchmarkSet(
        name="cifar100",
        title="CIFAR-100",
        torchvision="CIFAR100",
        marker="cifar-100-python",
        files=("train", "test", "meta"),
        train_images=50_000,
        test_images=10_000,
        page="https://www.cs.toronto.edu/~kriz/cifar.html",
        templates=(
            *(f"{text} {{}}." for text in _CIFAR),
            "a photo of a small {}.",
            "a photo of a big {}.",
            *(f"{text.removesuffix(' a')} the {{}}." for text in _CIFAR),
            "a photo of the small {}.",
            "a photo of the big {}.",
        ),
        zero_shot=68.2,
    ),
    BenchmarkSet(
        name="dtd",
        title="Describable Textures (DTD)",
        torchvision="DTD",
        marker="dtd/dtd",
        files=("labels/train1.txt", "labels/test1.txt", "images"),
        train_images=1880,
        test_images=1880,
        page="https://www.robots.ox.ac.uk/~vgg/data/dtd/",
        templates=tuple(
            f"a photo of {article} {{}} {what}."
            for article in ("a", "the")
            for what in ("texture", "pattern", "thing", "object")
        ),
        zero_shot=44.6,
    ),
    BenchmarkSet(
        name="eurosat",
        title="EuroSAT (RGB)",
        torchvision="EuroSAT",
        marker="eurosat/2750",
        split="random",
        train_images=21_600,
        test_images=5_400,
        page="https://github.com/phelber/EuroSAT",
        fetch="EuroSAT.zip unpacks to the folder 2750; put it at {root}/eurosat/2750.",
        templates=tuple(f"a centered satellite photo of {article}{{}}." for article in ("", "a ", "the ")),
        zero_shot=54.9,
    ),
    BenchmarkSet(
        name="flowers102",
        title="Oxford Flowers 102",
        torchvision="Flowers102",
        marker="flowers-102",
        files=("imagelabels.mat", "setid.mat", "jpg"),
        train_images=1020,
        test_images=6149,
        page="https://www.robots.ox.ac.uk/~vgg/data/flowers/102/",
        templates=("a photo of a {}, a type of flower.",),
        zero_shot=71.0,
    ),
    BenchmarkSet(
        name="food101",
        title="Food-101",
        torchvision="Food101",
        marker="food-101",
        files=("meta/train.json", "meta/test.json", "images"),
        train_images=75_750,
        test_images=25_250,
        page="https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101/",
        templates=("a photo of a {}, a type of food.",),
        zero_shot=88.5,
    ),
    BenchmarkSet(
        name="mnist",
        title="MNIST",
        torchvision="MNIST",
        marker="MNIST/raw",
        files=(
            "train-images-idx3-ubyte",
            "train-labels-idx1-ubyte",
            "t10k-images-idx3-ubyte",
            "t10k-labels-idx1-ubyte",
        ),
        train_images=60_000,
        test_images=10_000,
        page="https://yann.lecun.com/exdb/mnist/",
        templates=('a photo of the number: "{}".',),
        zero_shot=59.4,
    ),
    BenchmarkSet(
        name="oxfordpet",
        title="Oxford-IIIT Pet",
        torchvision="OxfordIIITPet",
        marker="oxford-iiit-pet",
        files=("annotations/trainval.txt", "annotations/test.txt", "images"),
        split="trainval",
        train_images=3680,
        test_images=3669,
        page="https://www.robots.ox.ac.uk/~vgg/data/pets/",
        templates=("a photo of a {}, a type of pet.",),
        zero_shot=89.0,
    ),
    BenchmarkSet(
        name="stanfordcars",
        title="Stanford Cars",
        torchvision="StanfordCars",
        marker="stanford_cars",
        files=(
            "devkit/cars_meta.mat",
            "devkit/cars_train_annos.mat",
            "cars_test_annos_withlabels.mat",
            "cars_train",
            "cars_test",
        ),
        train_images=8144,
        test_images=8041,
        page="https://github.com/pytorch/vision/issues/7545",
        fetch=(
            "its own page is gone, and torchvision cannot download it; put cars_train, cars_test, devkit and "
            "cars_test_annos_withlabels.mat into {root}/stanford_cars."
        ),
        templates=(
            "a photo of a {}, a type of car.",
            "a photo of a {}.",
            "a photo of the {}.",
            "a photo of my {}.",
            "i love my {}!",
            "a photo of my dirty {}.",
            "a photo of my clean {}.",
            "a photo of my new {}.",
            "a photo of my old {}.",
        ),
        zero_shot=64.7,
    ),
    BenchmarkSet(
        name="sun397",
        title="SUN397",
        torchvision="SUN397",
        marker="SUN397",
        files=("ClassName.txt",),
        split="random",
        train_images=87_003,
        test_images=21_751,
        page="https://vision.princeton.edu/projects/2010/SUN/",
        templates=("a photo of a {}.", "a photo of the {}."),
        zero_shot=65.2,
    ),
)

SETS = {one.name: one for one in _ALL}
"""Name -> set, in order I."""

ORDERS: dict[int, tuple[str, ...]] = {
    1: tuple(SETS),
    2: (
        "stanfordcars",
        "food101",
        "mnist",
        "oxfordpet",
        "flowers102",
        "sun397",
        "aircraft",
        "caltech101",
        "dtd",
        "eurosat",
        "cifar100",
    ),
}
"""The two published orders."""
