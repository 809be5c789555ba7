"""What a file of weights may claim: how far it unpacks, and whether the numbers of a tensor are there."""

from __future__ import annotations

import os
import struct
import zipfile
from pathlib import Path
from typing import IO, TYPE_CHECKING

from alexnet_deploy.errors import InputError, WeightsError
from alexnet_deploy.limits import (
    MAX_CHECKPOINT_BYTES,
    MAX_CHECKPOINT_TENSORS,
    MAX_HEADER_BYTES,
    bounded_bytes,
    json_from_text,
    opened,
    read_up_to,
    require_within,
)

if TYPE_CHECKING:
    from torch import Tensor

_LENGTH_BYTES = 8
_ZIP_MAGIC = b"PK\3\4"
# The comment at the end of an archive, and the records before it, are no longer than this.
_ZIP_END_BYTES = (1 << 16) + 200
# What the directory says of a member: 46 bytes, its name and its extra fields; torch pads to 64.
_ZIP_MEMBER_BYTES = 1_000


def checkpoint_bytes(path: Path) -> bytes:
    """The content of a safetensors file, unpacked where its name ends in `.zst`.

    Raises:
        OSError: It cannot be read.
        ValueError: It is not what its name says, or unpacks to more than `MAX_CHECKPOINT_BYTES`.
        InputError: It is no file, or larger.
    """
    data = bounded_bytes(path, MAX_CHECKPOINT_BYTES)
    if path.suffix != ".zst":
        return data
    import zstandard

    try:
        size = zstandard.frame_content_size(data)
        if not 0 < size <= MAX_CHECKPOINT_BYTES:
            raise ValueError(f"it says that it unpacks to {size} bytes")
        with zstandard.ZstdDecompressor().stream_reader(data) as reader:
            unpacked = _unpacked(reader, size)
    except zstandard.ZstdError as exc:
        raise ValueError(f"it is not zstd: {exc}") from exc
    if len(unpacked) != size:
        raise ValueError(f"it says that it unpacks to {size} bytes, and unpacks to {len(unpacked)}")
    return unpacked


def _unpacked(reader: IO[bytes], size: int) -> bytes:
    """Takes memory for what comes out, not for what the file says will, and stops where that is no safetensors file."""
    start = reader.read(_LENGTH_BYTES)
    header = read_up_to(reader, min(int.from_bytes(start, "little"), MAX_HEADER_BYTES + 1))
    require_header(start + header, size)
    return b"".join([start, header, read_up_to(reader, size - len(start) - len(header))])


def require_header(start: bytes, size: int) -> None:
    """Checks that a file of `size` bytes is as large as its header says (safetensors' README, "Format").

    Raises:
        ValueError: It is not.
    """
    length = int.from_bytes(start[:_LENGTH_BYTES], "little")
    if len(start) < _LENGTH_BYTES or length > MAX_HEADER_BYTES or len(start) < _LENGTH_BYTES + length:
        raise ValueError("its header is cut short, or too long")
    header = json_from_text(start[_LENGTH_BYTES : _LENGTH_BYTES + length].decode())
    try:
        ends = [int(entry["data_offsets"][1]) for name, entry in header.items() if name != "__metadata__"]
    except (AttributeError, KeyError, TypeError, IndexError) as exc:
        raise ValueError("its header is none") from exc
    if len(ends) > MAX_CHECKPOINT_TENSORS or _LENGTH_BYTES + length + max(ends, default=0) != size:
        raise ValueError(f"its {len(ends)} tensors do not end where the file does")


def require_plain_archive(path: Path) -> None:
    """torch writes its archives uncompressed; one that unpacks to more than it is was made to do so.

    Raises:
        InputError: It is such a one, too large, or no file.
    """
    with opened(path, MAX_CHECKPOINT_BYTES) as file:
        size = os.fstat(file.fileno()).st_size
        if file.read(len(_ZIP_MAGIC)) != _ZIP_MAGIC:
            return
        _require_few_members(path, file, size)
        try:
            with zipfile.ZipFile(file) as archive:
                members = archive.infolist()
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, struct.error) as exc:
            raise InputError(
                f"{path} cannot be read as weights", got=exc, remedy="fetch or save the file again"
            ) from exc
    packed = [member.filename for member in members if member.compress_type != zipfile.ZIP_STORED]
    unpacked = sum(member.file_size for member in members)
    if packed or unpacked > size:
        raise InputError(
            f"{path} is packed as torch does not pack",
            got=f"{packed[0]!r} is compressed" if packed else f"{unpacked:,} bytes in a file of {size:,}",
            expected="an archive whose members are stored as they are",
            remedy="save it with torch.save(model.state_dict(), path) or as safetensors",
        )


def _require_few_members(path: Path, file: IO[bytes], size: int) -> None:
    """Python and torch make an object for every member, of which the end of the file says how many there are.

    Args:
        path: For the message.
        file: The archive (.ZIP File Format Specification, sections 4.3.14 and 4.3.16).
        size: Of the archive.

    Raises:
        InputError: There are more than a checkpoint has.
    """
    file.seek(max(0, size - _ZIP_END_BYTES))
    tail = file.read()
    members, directory = 0, 0
    if (at := tail.rfind(b"PK\5\6")) >= 0 and len(tail) >= at + 16:
        members, directory = struct.unpack_from("<HI", tail, at + 10)
    if (at := tail.rfind(b"PK\6\6")) >= 0 and len(tail) >= at + 48:
        more, larger = struct.unpack_from("<QQ", tail, at + 32)
        members, directory = max(members % 0xFFFF, more), max(directory % 0xFFFFFFFF, larger)
    file.seek(0)
    require_within(f"the archive {path}", members, 4 * MAX_CHECKPOINT_TENSORS, "members")
    require_within(
        f"the directory of the archive {path}", directory, _ZIP_MEMBER_BYTES * MAX_CHECKPOINT_TENSORS, "bytes"
    )


def require_stored(model: str, name: str, tensor: Tensor) -> None:
    """A tensor whose numbers are there: one that is sparse, or repeats one number, can claim any shape.

    Raises:
        WeightsError: It is another one.
    """
    import torch

    dense = tensor.layout is torch.strided and tensor.device.type == "cpu" and tensor.is_floating_point()
    if not dense or tensor.untyped_storage().nbytes() < tensor.numel() * tensor.element_size():
        raise WeightsError(
            f"the weight {name} of {model} is not stored number by number",
            got=f"{tensor.dtype}, {tensor.layout}".replace("torch.", ""),
            expected="a dense tensor of floating-point numbers",
            remedy="save it with tensor.contiguous()",
        )
