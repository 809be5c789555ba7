"""How much a file may ask for, in one place: every bound on what is read, with the reason for its number.

A file that a stranger made may claim anything. What it claims is held against these before memory is taken for it, and
what is over one is refused with both numbers. They are wide enough for the networks that this package is for, and
none is an option: who needs more changes the number here. docs/security.md has the same table.
"""

from __future__ import annotations

import io
import json
import os
import stat
from pathlib import Path
from typing import IO, Any, NoReturn

from alexnet_deploy.errors import AlexnetDeployError, InputError

# The largest member of the family at width 2 in FP32 is about 1 GB; twice that in training's precision still fits.
MAX_CHECKPOINT_BYTES = 4_000_000_000
# safetensors' own limit.
MAX_HEADER_BYTES = 100_000_000
# A state dict of the family has 16 tensors, a foreign one some hundreds.
MAX_CHECKPOINT_TENSORS = 10_000
# protobuf's own limit is 2 GiB, of the file and the files beside it together, since later stages write one file.
MAX_ONNX_BYTES = 2_000_000_000
# Every field of every message of the graph; a ResNet-152 has about 10,000, a transformer of many layers 300,000.
MAX_GRAPH_FIELDS = 2_000_000
# Numbers that ONNX packs as varints can take eight times their bytes in memory. Weights are raw bytes in what exporters
# write; 8-bit weights of an AlexNet as varints are 120 MB.
MAX_PACKED_BYTES = 250_000_000
# With every function written out at each place that calls it; a transformer exported node by node has about 10,000.
MAX_GRAPH_NODES = 20_000
# protobuf's own limit of messages inside messages; a graph in a node's attribute is three.
MAX_NESTING = 100
# Exporters write the path of modules and scopes into a name; some hundred bytes.
MAX_NAME_BYTES = 4_096
# NumPy holds 64 dimensions, a network of images four.
MAX_DIMENSIONS = 32
# One result of a node for the batch that the graph states: the first of VGG-16's at batch 256 in FP32 is 3.3 GB.
MAX_RESULT_BYTES = 4_000_000_000
# Constants that a graph only describes (ConstantOfShape, a reshaped constant) are made; those of an AlexNet are 151 MB.
MAX_FOLDED_BYTES = 1_000_000_000
# A model's description: labels of a million classes would be about 20 MB.
MAX_DESCRIPTION_CHARACTERS = 32_000_000
# The longest label of ImageNet has 121 characters.
MAX_LABEL_CHARACTERS = 1_000
MAX_LABELS_BYTES = 32_000_000
# A photograph of 50 megapixels is large; a PNG that unpacks to more is more likely a bomb.
MAX_PIXELS = 50_000_000
# Those pixels in three channels of 16 bits, uncompressed, and room for what cameras write beside them.
MAX_IMAGE_BYTES = 400_000_000
# idx and CIFAR files are read whole; the largest known (EMNIST) unpacks to 550 MB.
MAX_UNPACKED_BYTES = 1_000_000_000
# Preprocessed images that are in memory at once: 64 of 1,600 pixels a side.
MAX_BATCH_BYTES = 2_000_000_000
# A tensor's histogram is 90 kB at most, and an image's hash 70 bytes: 200 tensors and 500,000 images.
MAX_TABLE_BYTES = 64_000_000
# Each holds 64 kB of counts in memory, however little it takes in the file.
MAX_TABLE_TENSORS = 5_000
# One of all runtimes, with every sample, is 150 kB.
MAX_BENCH_BYTES = 32_000_000
# One of an engine of many layers and profiles is some 100 kB.
MAX_PASSPORT_BYTES = 4_000_000
MAX_PREPROCESSING_BYTES = 1_000_000
# An engine holds the weights at most twice, for its kernels' layouts.
MAX_ENGINE_BYTES = 4_000_000_000
MAX_TIMING_CACHE_BYTES = 500_000_000

_CHUNK_BYTES = 1 << 24


def opened(path: Path, most: int) -> IO[bytes]:
    """Opens a file for reading that is a file (no pipe, which would wait for ever, and no device) and not too large.

    Raises:
        OSError: It cannot be opened.
        InputError: It is something else, or larger than `most` bytes.
    """
    # A pipe without a writer blocks whoever opens it, unless told not to.
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise InputError(f"{path} is no file", got=_kind_of(status.st_mode), expected="a file")
        if status.st_size > most:
            raise _too_large(path, status.st_size, most)
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def bounded_bytes(path: Path, most: int) -> bytes:
    """The content of a file.

    Raises:
        OSError: It cannot be read.
        InputError: It is no file, or larger than `most` bytes.
    """
    with opened(path, most) as file:
        # One byte more than it has, should it grow; `read` takes memory for as much as it is asked for.
        data = file.read(min(most, os.fstat(file.fileno()).st_size) + 1)
    if len(data) > most:
        raise _too_large(path, len(data), most)
    return data


def read_up_to(file: IO[bytes], most: int) -> bytes:
    """At most so many bytes; memory is taken for what is there, and not for what was asked for, as `read` does."""
    whole = io.BytesIO()
    while (left := most - whole.tell()) > 0 and (part := file.read(min(left, _CHUNK_BYTES))):
        whole.write(part)
    return whole.getvalue()


def bounded_json(path: Path, most: int) -> Any:
    """A JSON document.

    Raises:
        OSError: It cannot be read.
        ValueError: It is no JSON, nested too deeply, or holds a number that is none.
        InputError: It is no file, or larger than `most` bytes.
    """
    return json_from_text(bounded_bytes(path, most).decode())


def json_from_text(text: str) -> Any:
    """A JSON document.

    Raises:
        ValueError: It is no JSON, nested too deeply, or holds a number that is none.
    """
    try:
        return json.loads(text, parse_constant=_refused)
    except RecursionError as exc:
        raise ValueError("it is nested too deeply") from exc


def require_within(what: str, got: int, most: int, unit: str, error: type[AlexnetDeployError] = InputError) -> None:
    """Holds a claim against its bound.

    Raises:
        AlexnetDeployError: It is over it, as an error of that class.
    """
    if got > most:
        raise error(f"{what} asks for too much", got=f"{got:,} {unit}", expected=f"at most {most:,}")


def _refused(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number")


def _too_large(path: Path, got: int, most: int) -> InputError:
    return InputError(
        f"{path} is too large",
        got=f"{got:,} bytes",
        expected=f"at most {most:,} bytes",
        remedy="check what the file is",
    )


def _kind_of(mode: int) -> str:
    kinds = {stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket", stat.S_IFDIR: "a folder", stat.S_IFCHR: "a device",
             stat.S_IFBLK: "a device"}  # fmt: skip
    return kinds.get(stat.S_IFMT(mode), "something else")
