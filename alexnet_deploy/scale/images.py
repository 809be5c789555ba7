"""A set of images by its name: small enough to be sent to a worker, which opens it itself."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from alexnet_deploy.bench.runner import evaluation_source
from alexnet_deploy.data.catalog import NAMES, open_data
from alexnet_deploy.data.shipped import Split, shipped_images
from alexnet_deploy.data.sources import FileSource, ImageSource
from alexnet_deploy.errors import DataError, InputError
from alexnet_deploy.limits import MAX_IMAGE_BYTES, bounded_bytes

if TYPE_CHECKING:
    from numpy.typing import NDArray

SHIPPED = "shipped"


@dataclass(frozen=True, kw_only=True)
class ImageSet:
    """One split of a data source.

    Attributes:
        data: `shipped`, or as `open_data` takes it.
        split: `train`, of which calibration images are drawn, or `test`.
        drawn: How many are drawn from a training split.
        labelled: Whether the classes of a test split matter.
    """

    data: str
    split: str = "test"
    drawn: int = 0
    labelled: bool = True

    @cached_property
    def source(self) -> ImageSource:
        """Opens it.

        Raises:
            InputError: There is no such source.
            DataError: It holds no images.
        """
        if self.split == "train":
            return calibration_source(self.data, self.drawn)
        return evaluation_source(self.data, labelled=self.labelled)

    @property
    def everywhere(self) -> ImageSet:
        """The same, for a process that may have another working directory."""
        return replace(self, data=absolute(self.data))

    @cached_property
    def listed(self) -> str:
        """Digest of the classes, the labels, and the files' paths, which opening it has brought."""
        source, digest = self.source, hashlib.sha256()
        digest.update(repr(source.classes).encode() + source.labels.tobytes())
        for index in range(len(source)):
            digest.update(repr(str(source.file_of(index))).encode())
        return digest.hexdigest()

    def opened_elsewhere(self, count: int, listed: str) -> ImageSource:
        """Opens it for a worker.

        Args:
            count: How many images there are where the command was called.
            listed: What `listed` is there.

        Raises:
            DataError: It is not here, or is not the same.
        """
        expected = f"the {count} images that the command found, at the same path on every node"
        try:
            source = self.source
        except InputError as exc:
            raise DataError(f"a worker cannot open {self.data}", got=exc.problem, expected=expected) from exc
        if len(source) != count:
            raise DataError(f"a worker sees another {self.data}", got=f"{len(source)} images", expected=expected)
        if self.listed != listed:
            got = f"{count} images of other names or in other classes"
            raise DataError(f"a worker sees another {self.data}", got=got, expected=expected)
        return source

    def __getstate__(self) -> dict[str, Any]:
        """Without the images, which may be in memory."""
        return {"data": self.data, "split": self.split, "drawn": self.drawn, "labelled": self.labelled}


def calibration_source(data: str, images: int) -> ImageSource:
    """So many images at most: the first of the shipped ones, or some drawn from a source's training split.

    Of a folder without classes they are drawn as of one with them.

    Raises:
        InputError: There is no such source.
        DataError: It holds no images.
    """
    if data == SHIPPED:
        source: ImageSource = shipped_images(Split.CALIBRATION)
        return source.subset(range(min(images, len(source))), source.name)
    everything = open_data(data, "train")
    order = np.random.default_rng(0).permutation(len(everything))
    return everything.subset(sorted(order[:images]), everything.name)


def absolute(data: str) -> str:
    """The text after `--data` with a folder that is there written in full."""
    name, colon, folder = data.partition(":")
    head, tail = (name + colon, folder) if name in NAMES and colon else ("", data)
    if data in (SHIPPED, *NAMES) or not Path(tail).expanduser().exists():
        return data
    return f"{head}{Path(tail).expanduser().absolute()}"


def witness_of(source: ImageSource, indices: NDArray[np.int64]) -> str:
    """What tells these images from others of the same names, without reading all of them.

    Of files their sizes, and the bytes of the first; of images in memory every pixel.
    """
    digest = hashlib.sha256()
    for position, index in enumerate(indices.tolist()):
        path = source.file_of(index)
        if path is not None:
            digest.update(_file_witness(path, whole=position == 0))
        elif not source.decodes:
            digest.update(source.image(index).tobytes())
    return digest.hexdigest()


def _file_witness(path: Path, *, whole: bool) -> bytes:
    try:
        return bounded_bytes(path, MAX_IMAGE_BYTES) if whole else f"{path.stat().st_size},".encode()
    except (OSError, InputError):
        # What is damaged here is damaged where the command was called, or is told from it.
        return b"-,"


def file_name(source: ImageSource, index: int) -> str | None:
    """Of an image, below the folder of its source; None where images are no files of their own."""
    if not isinstance(source, FileSource):
        return None
    path = source.paths[index]
    return path.relative_to(source.name).as_posix() if path.is_relative_to(source.name) else path.as_posix()
