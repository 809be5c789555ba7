"""The Fashion-MNIST images that ship with the package: for calibration, for guards, for evaluation.

`python -m alexnet_deploy.data.shipped FOLDER` writes them anew from the full data set; the result is the same
to the last byte.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import sys
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from alexnet_deploy.data.catalog import FASHION_MNIST_CLASSES, open_data
from alexnet_deploy.data.sources import ArraySource, read_idx
from alexnet_deploy.errors import ArtifactError, DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Which training images ship; the year is AlexNet's, and any seed would do.
_SEED = 2012
_PACKAGE = Path(__file__).resolve().parent.parent


class Split(StrEnum):
    """The three sets that never share an image."""

    CALIBRATION = "calibration"
    GUARD = "guard"
    EVALUATION = "evaluation"


SIZES = {Split.CALIBRATION: 512, Split.GUARD: 1000, Split.EVALUATION: 2000}


def shipped_folder(name: str) -> Path:
    """`models` or `calibration`, inside an installed wheel or beside the package in a clone."""
    inside = _PACKAGE / "shipped" / name
    return inside if inside.is_dir() else _PACKAGE.parent / name


@cache
def shipped_images(split: Split) -> ArraySource:
    """Opens one of the sets that ship, after checking it against the manifest.

    Raises:
        DataError: A file is missing or its hash is not the manifest's.
    """
    folder = shipped_folder("calibration")
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
        entry = manifest["sets"][split.value]
        for kind in ("images", "labels"):
            path = folder / entry[kind]["file"]
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            if digest != entry[kind]["sha256"]:
                raise DataError(
                    f"{path} is not the file that shipped",
                    got=f"sha256 {digest}",
                    expected=f"sha256 {entry[kind]['sha256']}",
                    remedy="check the file out again, or reinstall the package",
                )
    except (OSError, KeyError, TypeError, ValueError) as exc:
        raise DataError("the shipped images cannot be read", got=exc, remedy="reinstall the package") from exc
    images = read_idx(folder / entry["images"]["file"])
    labels = read_idx(folder / entry["labels"]["file"]).astype(np.int64)
    return ArraySource(images, labels, FASHION_MNIST_CLASSES, f"shipped {split.value}")


def shipped_hashes(*splits: Split) -> frozenset[str]:
    """Content hashes of every image in the named sets."""
    return frozenset(
        source.content_hash(index)
        for split in splits
        for source in [shipped_images(split)]
        for index in range(len(source))
    )


def write_shipped(folder: Path) -> None:
    """Writes the three sets and their manifest into `folder` from the full Fashion-MNIST."""
    train, test = open_data("fashion-mnist", "train"), open_data("fashion-mnist", "test")
    # Sixteen training images stand twice in Fashion-MNIST: one of a pair must not be on both sides of a split.
    hashes = [train.content_hash(index) for index in range(len(train))]
    forbidden = {test.content_hash(index) for index in range(len(test))}
    seen: set[str] = set()
    unique = []
    for index in np.random.default_rng(_SEED).permutation(len(train)):
        if hashes[index] not in seen and hashes[index] not in forbidden:
            unique.append(int(index))
        seen.add(hashes[index])
    calibration, guard = SIZES[Split.CALIBRATION], SIZES[Split.GUARD]
    picks = {
        Split.CALIBRATION: (train, sorted(unique[:calibration])),
        Split.GUARD: (train, sorted(unique[calibration : calibration + guard])),
        Split.EVALUATION: (test, list(range(SIZES[Split.EVALUATION]))),
    }
    sets: dict[str, Any] = {}
    for split, (source, indices) in picks.items():
        images = np.stack([source.image(index) for index in indices])
        labels = source.labels[indices].astype(np.uint8)
        sets[split.value] = {
            "count": len(indices),
            "origin": source.name,
            "images": _write_idx(folder / f"fashion-mnist-{split.value}-images-idx3-ubyte.gz", images),
            "labels": _write_idx(folder / f"fashion-mnist-{split.value}-labels-idx1-ubyte.gz", labels),
            "indices": indices if source is train else f"0 to {len(indices) - 1}",
        }
    manifest = {
        "schema": 1,
        "data": "Fashion-MNIST",
        "source": "https://github.com/zalandoresearch/fashion-mnist",
        "licence": "MIT, Copyright (c) 2017 Zalando SE",
        "sets": sets,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")


def _write_idx(path: Path, array: NDArray[np.uint8]) -> dict[str, str]:
    header = bytes([0, 0, 8, array.ndim]) + b"".join(side.to_bytes(4, "big") for side in array.shape)
    path.write_bytes(gzip.compress(header + array.tobytes(), compresslevel=9, mtime=0))
    return {"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(ArtifactError("usage: python -m alexnet_deploy.data.shipped FOLDER").problem)
    write_shipped(Path(sys.argv[1]))
