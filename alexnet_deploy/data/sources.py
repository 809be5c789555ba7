"""Where images come from: idx files (MNIST's form), CIFAR-10's binary form, and trees of image files."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import math
import re
import threading
import warnings
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast

import numpy as np
from PIL import Image, UnidentifiedImageError

from alexnet_deploy.errors import DataError, ImageError, InputError
from alexnet_deploy.limits import MAX_DIMENSIONS, MAX_IMAGE_BYTES, MAX_PIXELS, MAX_UNPACKED_BYTES, opened, read_up_to

if TYPE_CHECKING:
    from numpy.typing import NDArray

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm"})
# Whatever a file is called: Pillow reads forty formats, of one of which (EPS) it starts an interpreter.
_FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "PPM")
_PILLOW = r"PIL\."
# As `warnings` keeps it.
_NO_PILLOW = ("ignore", None, Warning, re.compile(_PILLOW), 0)
_SILENCING = threading.Lock()
_IDX_UBYTE_MAGIC = 0x08
_CIFAR_RECORD_BYTES = 1 + 3 * 32 * 32


class ImageSource(ABC):
    """A labelled, indexable set of images.

    Attributes:
        name: What reports call it.
        classes: Names of the classes, by label.
        labels: `(N,) int64`.
        decodes: Whether an image is read and decoded when it is asked for; otherwise it lies in memory.
        notes: What its user should hear.
    """

    decodes: bool = True
    notes: tuple[str, ...] = ()
    name: str
    classes: tuple[str, ...]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def image(self, index: int) -> NDArray[np.uint8]:
        """Returns `(H, W)` grey or `(H, W, 3)` RGB, uint8; several threads may ask at once.

        Raises:
            ImageError: The image is damaged; the message names its file.
        """

    def name_of(self, index: int) -> str:
        """What messages call an image."""
        return f"image {index} of {self.name}"

    def file_of(self, index: int) -> Path | None:
        """The file that holds an image and nothing else; None where images are no files of their own."""
        return None

    def content_hash(self, index: int) -> str:
        """SHA-256 of shape and decoded pixels, whatever file they came in."""
        pixels = self.image(index)
        return hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()

    def subset(self, indices: Sequence[int] | NDArray[np.int64], name: str | None = None) -> ImageSource:
        """The images at `indices`, in that order."""
        return _Subset(self, np.asarray(indices, np.int64), name or self.name)


class ArraySource(ImageSource):
    """Images that are in memory: `(N, H, W)` or `(N, H, W, 3)`, uint8."""

    decodes = False

    def __init__(self, images: NDArray[np.uint8], labels: NDArray[np.int64], classes: Sequence[str], name: str) -> None:
        self.images, self.labels, self.classes, self.name = images, labels, tuple(classes), name
        if len(images) != len(labels) or len(images) == 0:
            raise DataError(
                f"{name}: images and labels do not match", got=f"{len(images)} images, {len(labels)} labels"
            )
        if images[0].size == 0:
            raise DataError(f"{name}: the images hold no pixels", got=f"sides of {images.shape[1:]}", expected="pixels")
        if int(labels.max()) >= len(self.classes) or int(labels.min()) < 0:
            raise DataError(
                f"{name}: a label is out of range",
                got=f"labels {labels.min()} to {labels.max()}",
                expected=f"0 to {len(self.classes) - 1}",
            )

    def image(self, index: int) -> NDArray[np.uint8]:
        pixels: NDArray[np.uint8] = self.images[index]
        return pixels


class FileSource(ImageSource):
    """Images that are files below one folder.

    Attributes:
        paths: By index.
    """

    paths: list[Path]

    def image(self, index: int) -> NDArray[np.uint8]:
        return read_image(self.paths[index])

    def name_of(self, index: int) -> str:
        return str(self.paths[index])

    def file_of(self, index: int) -> Path | None:
        return self.paths[index]


class FolderSource(FileSource):
    """A tree with one folder a class (ImageNet's layout), the classes in alphabetical order."""

    def __init__(self, folder: Path, classes: Sequence[str] | None = None) -> None:
        found = sorted(child.name for child in _folders(folder))
        self.name = str(folder)
        self.classes = tuple(classes or found)
        self.paths = []
        labels: list[int] = []
        for label, name in enumerate(self.classes):
            files = images_below(folder / name)
            self.paths += files
            labels += [label] * len(files)
        if not self.paths:
            raise InputError(
                f"{folder} holds no images",
                got=f"{len(found)} folders and no file that ends in {', '.join(sorted(IMAGE_SUFFIXES))}",
                expected="folders of classes with images in them, or images",
                remedy="name the folder whose children are the classes, or that holds train/ and val/, or images",
            )
        self.labels = np.asarray(labels, np.int64)
        if loose := loose_images(folder):
            self.notes = (f"images that lie in {folder} itself are of no class and are left out: {loose}",)


class UnlabelledSource(FileSource):
    """All the images below a folder, of no known class: `classes` is empty and every label -1."""

    def __init__(self, folder: Path) -> None:
        self.name, self.classes = str(folder), ()
        # Child by child, as with classes: links to folders are followed here, and not further down.
        below = (path for child in _folders(folder) for path in images_below(child))
        self.paths = sorted([*_loose(folder), *below])
        self.labels = np.full(len(self.paths), -1, np.int64)

    @staticmethod
    def fits(folder: Path, *, labelled: bool) -> bool:
        """Whether there are images in the folder itself; where they should be labelled, and nowhere else."""
        if next(_loose(folder), None) is None:
            return False
        return not (labelled and any(images_below(child) for child in _folders(folder)))


def images_below(folder: Path) -> list[Path]:
    """The files below a folder that are called as images are, in order."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)


def loose_images(folder: Path) -> int:
    """How many images lie in a folder itself."""
    return sum(1 for _ in _loose(folder))


def _folders(folder: Path) -> Iterator[Path]:
    # Hidden ones hold thumbnails and checkpoints.
    return (child for child in folder.iterdir() if child.is_dir() and not child.name.startswith("."))


def _loose(folder: Path) -> Iterator[Path]:
    return (path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES and not path.is_dir())


class _Subset(ImageSource):
    def __init__(self, source: ImageSource, indices: NDArray[np.int64], name: str) -> None:
        self.source, self.indices, self.name = source, indices, name
        self.classes, self.labels, self.decodes = source.classes, source.labels[indices], source.decodes
        self.notes = source.notes

    def image(self, index: int) -> NDArray[np.uint8]:
        return self.source.image(int(self.indices[index]))

    def name_of(self, index: int) -> str:
        return self.source.name_of(int(self.indices[index]))

    def file_of(self, index: int) -> Path | None:
        return self.source.file_of(int(self.indices[index]))


def read_image(path: Path) -> NDArray[np.uint8]:
    """Decodes one file to `(H, W)` grey or `(H, W, 3)` RGB, uint8.

    Raises:
        ImageError: The file is missing, damaged, no JPEG, PNG, BMP, WebP or PPM, or larger than `MAX_PIXELS`.
    """
    return _decoded(str(path), lambda: opened(path, MAX_IMAGE_BYTES))


def image_from_bytes(data: bytes, name: str) -> NDArray[np.uint8]:
    """Decodes a file that is in memory, as `read_image` does.

    Raises:
        ImageError: It is damaged, no JPEG, PNG, BMP, WebP or PPM, or larger than `MAX_PIXELS`.
    """
    return _decoded(name, lambda: io.BytesIO(data))


def _decoded(name: str, open_: Callable[[], IO[bytes]]) -> NDArray[np.uint8]:
    try:
        _silence_pillow()
        with open_() as file, Image.open(file, formats=_FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ImageError(
                    f"{name} is too large",
                    got=f"{image.width}x{image.height}",
                    expected=f"at most {MAX_PIXELS:,} pixels",
                )
            return _pixels(image)
    except ImageError:
        raise
    except InputError as exc:
        raise ImageError(f"{name} cannot be read as an image", got=exc.got, expected=exc.expected) from exc
    except Exception as exc:  # a damaged file raises whatever its bytes lead Pillow into
        raise ImageError(
            f"{name} cannot be read as an image",
            got=_without_address(exc),
            remedy="replace or remove the file, or leave it out with --skip-bad",
        ) from exc


def _silence_pillow() -> None:
    """Leaves out what Pillow's modules warn of: bombs, which are refused here, and metadata that is damaged where the
    pixels are not.

    Filters are the whole process's. Putting them back after every image, as `catch_warnings` does, would undo those of
    another thread; this one names Pillow's modules alone, and stays.
    """
    with _SILENCING:
        if not warnings.filters or warnings.filters[0] != _NO_PILLOW:
            warnings.filterwarnings("ignore", module=_PILLOW)


def _without_address(error: Exception) -> str:
    """Pillow names the object that was opened, which says nothing."""
    if isinstance(error, UnidentifiedImageError):
        return f"no {', '.join(_FORMATS)}"
    return str(error) or type(error).__name__


def _pixels(image: Image.Image) -> NDArray[np.uint8]:
    if image.mode.startswith("I;16"):
        # Pillow's own conversion cuts 16 bits off at 255.
        return (np.asarray(image).astype(np.uint32) // 257).astype(np.uint8)
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return np.asarray(image if image.mode == "L" else image.convert("RGB"))


def read_idx(path: Path) -> NDArray[np.uint8]:
    """Reads an idx file of unsigned bytes, plain or gzipped (format: Y. LeCun's MNIST page).

    Raises:
        DataError: The file is not idx, is cut short, or unpacks to more than `MAX_UNPACKED_BYTES`.
    """
    try:
        with _unpacked(path) as file:
            start = file.read(4)
            if len(start) < 4 or start[:3] != bytes([0, 0, _IDX_UBYTE_MAGIC]):
                raise ValueError(f"it begins with {start.hex()}, not with 000008")
            sides = file.read(4 * start[3])
            shape = tuple(int.from_bytes(sides[at : at + 4], "big") for at in range(0, len(sides), 4))
            expected = math.prod(shape)
            if 4 + len(sides) + expected > MAX_UNPACKED_BYTES:
                raise ValueError(f"it unpacks to more than {MAX_UNPACKED_BYTES:,} bytes: its header says {shape}")
            # What goes on without end is left alone after one byte too many.
            data = read_up_to(file, expected + 1)
        if not 1 <= start[3] <= MAX_DIMENSIONS or len(sides) < 4 * start[3] or len(data) != expected:
            more = " or more" if len(data) > expected else ""
            raise ValueError(f"its header says {shape}, but {len(data)} bytes{more} follow")
        return np.frombuffer(data, np.uint8).reshape(shape)
    except InputError as exc:
        raise DataError(exc.problem, got=exc.got, expected=exc.expected) from exc
    except (OSError, EOFError, ValueError, zlib.error) as exc:
        raise DataError(f"{path} cannot be read as an idx file", got=exc, remedy="fetch the file again") from exc


def read_cifar(paths: Sequence[Path]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Reads CIFAR-10's binary batches: `(N, 32, 32, 3)` uint8 and `(N,)` int64 labels.

    Raises:
        DataError: A file is not a whole number of records.
    """
    records, left = [], MAX_UNPACKED_BYTES
    for path in paths:
        try:
            with _unpacked(path) as file:
                data = read_up_to(file, left + 1)
            if len(data) > left:
                raise ValueError(f"the batches unpack to more than {MAX_UNPACKED_BYTES:,} bytes")
            left -= len(data)
        except InputError as exc:
            raise DataError(exc.problem, got=exc.got, expected=exc.expected) from exc
        except (OSError, EOFError, ValueError, zlib.error) as exc:
            raise DataError(f"{path} cannot be read", got=exc) from exc
        if len(data) == 0 or len(data) % _CIFAR_RECORD_BYTES:
            raise DataError(
                f"{path} is not a CIFAR-10 binary batch",
                got=f"{len(data)} bytes",
                expected=f"a multiple of {_CIFAR_RECORD_BYTES}",
            )
        records.append(np.frombuffer(data, np.uint8).reshape(-1, _CIFAR_RECORD_BYTES))
    table = np.concatenate(records)
    images = table[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), table[:, 0].astype(np.int64)


@contextlib.contextmanager
def _unpacked(path: Path) -> Iterator[IO[bytes]]:
    with opened(path, MAX_UNPACKED_BYTES) as file:
        if path.suffix != ".gz":
            yield file
            return
        with gzip.open(file, "rb") as unpacked:
            yield cast("IO[bytes]", unpacked)
