"""The one way from an image to the network's input, for training, calibration, evaluation and prediction."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from alexnet_deploy.errors import DataError
from alexnet_deploy.limits import MAX_BATCH_BYTES, MAX_PIXELS, require_within
from alexnet_deploy.specs import Interpolation, Preprocessing, Resize

if TYPE_CHECKING:
    from numpy.typing import NDArray

_FILTERS = {
    Interpolation.NEAREST: Image.Resampling.NEAREST,
    Interpolation.BILINEAR: Image.Resampling.BILINEAR,
    Interpolation.BICUBIC: Image.Resampling.BICUBIC,
}


def square_from_image(pixels: NDArray[np.uint8], spec: Preprocessing) -> NDArray[np.uint8]:
    """Resizes and crops one image: `(H, W)` or `(H, W, 3)` to `(S, S)` or `(S, S, 3)`, uint8.

    The shorter-side rule is torchvision's: the longer side becomes `int(size * long / short)`, and the crop
    starts at `round((side - crop) / 2)`.

    Raises:
        DataError: The image is too narrow.
    """
    image = Image.fromarray(pixels)
    filter_ = _FILTERS[spec.interpolation]
    if spec.resize is Resize.STRETCH:
        width = height = spec.resize_size
    else:
        short, long = sorted(image.size)
        scaled_long = int(spec.resize_size * long / short)
        if scaled_long * spec.resize_size > MAX_PIXELS:
            raise DataError(
                "an image is too narrow to be resized",
                got=f"{image.width}x{image.height}",
                expected=f"at most {MAX_PIXELS:,} pixels at a shorter side of {spec.resize_size}",
            )
        width, height = (
            (spec.resize_size, scaled_long) if image.width <= image.height else (scaled_long, spec.resize_size)
        )
    if image.size != (width, height):
        image = image.resize((width, height), filter_)
    left, top = round((width - spec.image_size) / 2), round((height - spec.image_size) / 2)
    return np.asarray(image)[top : top + spec.image_size, left : left + spec.image_size]


def batch_from_images(images: Sequence[NDArray[np.uint8]], spec: Preprocessing) -> NDArray[np.float32]:
    """Stacks images as `(N, 3, S, S) float32`, C-contiguous.

    Args:
        images: uint8 arrays, `(H, W)` grey or `(H, W, 3)` RGB, of any sizes.
        spec: The preprocessing that travels with the weights.

    Raises:
        DataError: An image is too narrow, or the batch would be larger than `MAX_BATCH_BYTES`.
    """
    batch = empty_batch(len(images), spec)
    write = row_writer(spec)
    for row, pixels in zip(batch, images, strict=True):
        write(row, pixels)
    return batch


def empty_batch(count: int, spec: Preprocessing) -> NDArray[np.float32]:
    """Memory for so many images, `(N, 3, S, S) float32`, whose rows a `row_writer` fills.

    Raises:
        DataError: It would be larger than `MAX_BATCH_BYTES`.
    """
    size = bytes_of_images(count, spec)
    require_within(f"a batch of {count} images of {spec.image_size} pixels", size, MAX_BATCH_BYTES, "bytes", DataError)
    return np.empty((count, 3, spec.image_size, spec.image_size), np.float32)


def row_writer(spec: Preprocessing) -> Callable[[NDArray[np.float32], NDArray[np.uint8]], None]:
    """What preprocesses one image into its row of a batch, `(3, S, S)`; threads may write rows side by side.

    It raises a `DataError` where the image is too narrow.
    """
    order = [0, 1, 2] if spec.channel_order == "rgb" else [2, 1, 0]
    # The mean and deviation are given in the order of the network's channels.
    factor = np.float32(spec.scale) / np.asarray(spec.std, np.float32)
    shift = -np.asarray(spec.mean, np.float32) / np.asarray(spec.std, np.float32)

    def write(row: NDArray[np.float32], pixels: NDArray[np.uint8]) -> None:
        square = square_from_image(pixels, spec)
        for channel, source in enumerate(order):
            plane = square if square.ndim == 2 else square[:, :, source]
            np.multiply(plane, factor[channel], out=row[channel], casting="unsafe")
            row[channel] += shift[channel]

    return write


def bytes_of_images(count: int, spec: Preprocessing) -> int:
    """Of so many preprocessed images in memory."""
    return count * 3 * spec.image_size**2 * 4


def resized(spec: Preprocessing, image_size: int) -> Preprocessing:
    """The same preprocessing for another input size, with the same share cropped away."""
    if image_size == spec.image_size:
        return spec
    resize_size = max(image_size, round(spec.resize_size * image_size / spec.image_size))
    return dataclasses.replace(spec, image_size=image_size, resize_size=resize_size)
