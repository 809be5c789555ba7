"""Changes to bytes and JSON values: what goes wrong on disks and wires, and what somebody may write by hand."""

from __future__ import annotations

import json
import math
import zlib
from random import Random
from typing import Any

# Where lengths, offsets, counts and shapes overflow, wrap round or turn negative.
INTEGERS = (
    0, 1, 2, 3, 7, 8, 64, 255, 256, 1000, 65_535, 65_536, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**53 + 1, 2**63 - 1,
    2**63, 2**64 - 1, -1, -2, -8, -(2**31), -(2**63),
)  # fmt: skip
FLOATS = (
    0.0,
    -0.0,
    1.0,
    -1.0,
    0.5,
    1e-45,
    1e-40,
    1e-320,
    1e-10,
    1e10,
    1e30,
    3.5e38,
    1e308,
    math.inf,
    -math.inf,
    math.nan,
)
WORDS = (
    "", " ", "0", "-1", "1e999", "nan", "null", "x", "..", "../../x", "/", "\x00", "\n", "\ud800", "\u202e", "é", "ﬃ",
    "a" * 5000, "conv1", "fp32", "tensorrt", "{}", "[]",
)  # fmt: skip
_MAGIC = (b"\x00" * 8, b"\xff" * 8, b"\x7f" + b"\xff" * 7, b"\x80" + b"\x00" * 7, b"PK\x03\x04", b"\x1f\x8b", b"{}")
# Python reads nested JSON by recursion: far below and far above what it takes.
_DEPTHS = (50, 900, 100_000)
_DEEP = "@deep@"


def bytes_of(random: Random, data: bytes) -> bytes:
    """A few changes to `data`, wherever they hit."""
    found = bytearray(data)
    for _ in range(random.choice((1, 1, 1, 2, 3, 8))):
        _change(random, found)
    return bytes(found)


def _change(random: Random, data: bytearray) -> None:
    at = random.randrange(len(data) + 1)
    length = min(random.choice((1, 1, 2, 4, 8, 32, 200)), len(data) - at)
    match random.randrange(9):
        case 0:
            del data[at:]
        case 1:
            del data[at : at + length]
        case 2:
            data[at:at] = data[at : at + length] * random.choice((1, 2, 50))
        case 3:
            data[at:at] = random.randbytes(random.choice((1, 4, 100)))
        case 4:
            data[at : at + length] = random.randbytes(length)
        case 5:
            magic = random.choice(_MAGIC)
            data[at : at + len(magic)] = magic
        case 6:
            size = random.choice((1, 2, 4, 8))
            number = random.choice(INTEGERS) % (1 << (8 * size))
            data[at : at + size] = number.to_bytes(size, random.choice(("little", "big")))
        case 7:
            other = random.randrange(len(data) + 1)
            data[at : at + length] = data[other : other + length]
        case _:
            if at < len(data):
                data[at] ^= 1 << random.randrange(8)


def json_of(random: Random, document: Any) -> Any:
    """A copy of plain JSON values with a few of them changed."""
    found = json.loads(json.dumps(document))
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        places = list(_places(found))
        if not places:
            return random.choice((None, 0, "x", [], {}))
        holder, key = random.choice(places)
        _change_value(random, holder, key, places)
    return found


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every value inside, as what holds it and under which key; of a long list the ends alone."""
    found: list[tuple[Any, Any]] = []
    pending = [value]
    while pending:
        holder = pending.pop()
        keys = list(holder) if isinstance(holder, dict) else range(len(holder)) if isinstance(holder, list) else []
        for key in keys if len(keys) < 200 else [*keys[:3], *keys[-3:]]:
            found.append((holder, key))
            pending.append(holder[key])
    return found


def _change_value(random: Random, holder: Any, key: Any, places: list[tuple[Any, Any]]) -> None:
    value = holder[key]
    match random.randrange(8):
        case 0:
            del holder[key]
        case 1:
            other, other_key = random.choice(places)
            # What was put elsewhere by an earlier change may be this very value: a copy, or JSON would have no end.
            if isinstance(other, dict) or len(other) > other_key:
                holder[key] = json.loads(
                    json.dumps(other.get(other_key) if isinstance(other, dict) else other[other_key])
                )
        case 2 if isinstance(value, bool) or value is None:
            holder[key] = random.choice((True, False, 0, 1, None))
        case 2 | 3 if isinstance(value, int | float) and abs(value) < 2**70:
            holder[key] = random.choice((-value, value + 1, value - 1, value * 2, value * 1e30, value / 3))
        case 2 | 3 if isinstance(value, str):
            holder[key] = random.choice((value + "x", value[:-1], value.upper(), value[::-1], value * 3))
        case 2 | 3 if isinstance(value, list):
            holder[key] = random.choice((value + value, value[:1], value[::-1], value[1:], [value]))
        case 4 if isinstance(holder, dict):
            holder[random.choice(WORDS)] = value
        case _:
            holder[key] = random.choice(
                (
                    random.choice(INTEGERS),
                    random.choice(INTEGERS),
                    random.choice(FLOATS),
                    random.choice(FLOATS),
                    random.choice(WORDS),
                    None,
                    True,
                    [],
                    {},
                    [[]],
                    {"a": 1},
                    _DEEP,
                    10**400,
                    [0] * 1000,
                )
            )


def text_of(random: Random, document: Any) -> bytes:
    """JSON as a file: mostly with changed values, sometimes with changed bytes."""
    if random.randrange(6) == 0:
        return bytes_of(random, json.dumps(document, indent=1).encode())
    text = json.dumps(json_of(random, document), indent=random.choice((None, 1)))
    depth = random.choice(_DEPTHS)
    return text.replace(f'"{_DEEP}"', "[" * depth + "]" * depth).encode()


def packed_of(random: Random, data: bytes) -> bytes:
    """A gzip file of changed bytes, or changed bytes of a gzip file."""
    import gzip

    if random.randrange(3):
        return gzip.compress(bytes_of(random, data), mtime=0)
    return bytes_of(random, gzip.compress(data, mtime=0))


def png_of(random: Random, data: bytes) -> bytes:
    """A PNG whose chunks were changed, with the check sums that belong to them."""
    chunks, at = [], 8
    while at + 12 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + size]))
        at += 12 + size
    place = random.randrange(len(chunks))
    kind, content = chunks[place]
    match random.randrange(5):
        case 0:
            sides = b"".join((random.choice(INTEGERS) % 2**32).to_bytes(4, "big") for _ in range(2))
            chunks[0] = (chunks[0][0], sides + chunks[0][1][8:])
        case 1:
            changed = bytearray(chunks[0][1])
            changed[random.randrange(8, 13)] = random.choice((0, 1, 2, 3, 4, 6, 8, 16, 255))
            chunks[0] = (chunks[0][0], bytes(changed))
        case 2:
            chunks[place] = (kind, bytes_of(random, content))
        case 3:
            chunks.insert(
                random.randrange(len(chunks)), (random.choice((kind, b"tEXt", b"zTXt", b"iCCP", b"tRNS")), content)
            )
        case _:
            bomb = zlib.compress(bytes(random.choice((10, 10_000, 30_000_000))))
            chunks[place] = (
                random.choice((b"IDAT", b"zTXt", b"iCCP", b"iTXt")),
                random.choice((b"", b"a\x00\x00")) + bomb,
            )
    body = b"".join(
        len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")
        for kind, content in chunks
    )
    return data[:8] + body
