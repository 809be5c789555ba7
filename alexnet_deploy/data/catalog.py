"""From what the user writes after `--data` to images: names, folders, and what a folder turns out to hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from alexnet_deploy.data.sources import (
    ArraySource,
    FolderSource,
    ImageSource,
    UnlabelledSource,
    loose_images,
    read_cifar,
    read_idx,
)
from alexnet_deploy.errors import DataError, InputError

FASHION_MNIST_CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
CIFAR10_CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
# The folder names of Imagenette are WordNet identifiers, in this order.
IMAGENETTE_CLASSES = {
    "n01440764": "tench",
    "n02102040": "English springer",
    "n02979186": "cassette player",
    "n03000684": "chain saw",
    "n03028079": "church",
    "n03394916": "French horn",
    "n03417042": "garbage truck",
    "n03425413": "gas pump",
    "n03445777": "golf ball",
    "n03888257": "parachute",
}
# Debian's package dataset-fashion-mnist.
SYSTEM_FOLDERS = {"fashion-mnist": Path("/usr/share/datasets/fashion-mnist")}
CACHE = Path("~/.cache/alexnet-deploy")
NAMES = ("fashion-mnist", "cifar10", "imagenette")
_SPLIT_FOLDERS = {"train": ("train",), "test": ("val", "test", "validation")}
_REMEDIES = {
    "fashion-mnist": "install Debian's dataset-fashion-mnist, or name a folder (--data fashion-mnist:FOLDER), "
    "or let torchvision fetch it (--download)",
    "cifar10": "unpack cifar-10-binary.tar.gz and name its folder (--data cifar10:FOLDER)",
    "imagenette": "unpack imagenette2-320.tgz and name its folder (--data imagenette:FOLDER)",
}


def open_data(text: str, split: str, *, download: bool = False, labelled: bool = True) -> ImageSource:
    """Opens one split of a data source.

    Args:
        text: `fashion-mnist`, `cifar10` or `imagenette`, optionally followed by `:FOLDER`, or a folder of idx
            files, of CIFAR-10 binary batches, or with one folder a class (below `train/` and `val/`, or itself).
        split: `train` or `test`.
        download: Whether torchvision may fetch Fashion-MNIST.
        labelled: Whether classes matter. Images that lie in a folder itself are of none: a folder of nothing else is
            opened without classes all the same; beside folders of classes they are left out, with a note. Where
            classes do not matter, all the images are taken.

    Raises:
        InputError: There is no such name or folder.
        DataError: The folder holds no images.
    """
    name, folder = _located(text, download=download)
    if (folder / "train-labels-idx1-ubyte.gz").exists() or (folder / "train-labels-idx1-ubyte").exists():
        return _open_idx(folder, split, name or str(folder))
    if any(folder.glob("*_batch*.bin")):
        return _open_cifar(folder, split, name or str(folder))
    return _open_tree(folder, split, name, labelled=labelled)


def require_data(text: str) -> None:
    """Checks before long work that a source is there; what is in it, `open_data` says.

    Raises:
        InputError: There is no such name or folder.
    """
    _located(text, download=False)


def _located(text: str, *, download: bool) -> tuple[str, Path]:
    """The name, or none, and the folder."""
    if not text.strip():
        raise InputError("--data names nothing", expected=f"{', '.join(NAMES)}, or a folder")
    name, _, folder_text = text.partition(":")
    if name not in NAMES:
        name, folder_text = "", text
    return name, _folder(name, folder_text, download=download)


def _folder(name: str, folder_text: str, *, download: bool) -> Path:
    if folder_text:
        folder = Path(folder_text).expanduser()
        if not folder.is_dir():
            raise InputError(
                f"there is no data source or folder {folder_text!r}",
                expected=f"{', '.join(NAMES)}, or a folder",
            )
        return _only_child(folder)
    cached = CACHE.expanduser() / name
    candidates = [path for path in (SYSTEM_FOLDERS.get(name), cached, cached / "FashionMNIST/raw") if path]
    for folder in candidates:
        if folder.is_dir() and any(folder.iterdir()) and not (folder / "FashionMNIST").exists():
            return folder
    if download and name == "fashion-mnist":
        return _download_fashion_mnist(cached)
    raise InputError(
        f"{name} is not on this machine",
        got=f"looked in {', '.join(str(path) for path in candidates if 'raw' not in path.parts)}",
        remedy=_REMEDIES[name],
    )


def _only_child(folder: Path) -> Path:
    """Archives unpack to one folder more: `cifar-10-batches-bin`, `FashionMNIST/raw`, `imagenette2-320`."""
    for child in (
        "cifar-10-batches-bin",
        "FashionMNIST/raw",
        "raw",
        "imagenette2",
        "imagenette2-320",
        "imagenette2-160",
    ):
        if (folder / child).is_dir():
            return folder / child
    return folder


def _download_fashion_mnist(cached: Path) -> Path:
    from torchvision.datasets import FashionMNIST

    try:
        FashionMNIST(str(cached), download=True)
    except (OSError, RuntimeError) as exc:
        raise DataError(
            "Fashion-MNIST could not be fetched", got=exc, remedy=_REMEDIES["fashion-mnist"].split(", or let")[0]
        ) from exc
    return cached / "FashionMNIST/raw"


def _open_idx(folder: Path, split: str, name: str) -> ImageSource:
    prefix = {"train": "train", "test": "t10k"}[split]
    images = read_idx(_plain_or_gz(folder / f"{prefix}-images-idx3-ubyte"))
    labels = read_idx(_plain_or_gz(folder / f"{prefix}-labels-idx1-ubyte")).astype(np.int64)
    if images.ndim != 3 or labels.ndim != 1:
        raise DataError(f"{folder} does not hold grey images", got=f"{images.ndim} and {labels.ndim} dimensions")
    return ArraySource(images, labels, FASHION_MNIST_CLASSES, f"{name} {split}")


def _plain_or_gz(path: Path) -> Path:
    packed = path.with_name(path.name + ".gz")
    return packed if packed.exists() else path


def _open_cifar(folder: Path, split: str, name: str) -> ImageSource:
    pattern = {"train": "data_batch_*.bin", "test": "test_batch.bin"}[split]
    paths = sorted(folder.glob(pattern))
    if not paths:
        raise DataError(f"{folder} holds no {split} batches", expected=pattern)
    images, labels = read_cifar(paths)
    return ArraySource(images, labels, CIFAR10_CLASSES, f"{name} {split}")


def _open_tree(folder: Path, split: str, name: str, *, labelled: bool) -> ImageSource:
    for child in _SPLIT_FOLDERS[split]:
        if (folder / child).is_dir():
            source = _open_images(folder / child, name, labelled=labelled)
            if loose := loose_images(folder):
                source.notes += (f"images that lie in {folder} itself, beside {child}/, are left out: {loose}",)
            return source
    other = [child for child in _SPLIT_FOLDERS["test" if split == "train" else "train"] if (folder / child).is_dir()]
    if other:
        raise DataError(
            f"{folder} has no {split} images",
            got=f"{', '.join(other)}/ only",
            expected=f"a folder {' or '.join(_SPLIT_FOLDERS[split])}",
        )
    return _open_images(folder, name, labelled=labelled)


def _open_images(folder: Path, name: str, *, labelled: bool) -> ImageSource:
    if UnlabelledSource.fits(folder, labelled=labelled):
        return UnlabelledSource(folder)
    source = FolderSource(folder)
    if name == "imagenette" or set(source.classes) == set(IMAGENETTE_CLASSES):
        source.classes = tuple(IMAGENETTE_CLASSES.get(c, c) for c in source.classes)
    return source
