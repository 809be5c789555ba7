"""Changes to an ONNX model field by field, which leave it a protobuf message."""

from __future__ import annotations

from random import Random
from typing import Any

import onnx

from tests.fuzz.mutate import FLOATS, INTEGERS, WORDS, bytes_of

_MOST_PLACES = 5000
_Place = tuple[Any, Any, int | None]


def model_of(random: Random, data: bytes) -> bytes:
    """A serialized model with a few fields changed."""
    model = onnx.load_from_string(data)
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        places = _places(model)
        if places:
            _change(random, random.choice(places), places)
    changed: bytes = model.SerializeToString()
    return changed


def _repeats(field: Any) -> bool:
    return bool(field.is_repeated)


def _places(model: Any) -> list[_Place]:
    """Every field that is set, as its message, its descriptor, and its place where it is repeated."""
    found: list[_Place] = []
    pending = [model]
    while pending and len(found) < _MOST_PLACES:
        message = pending.pop()
        for field, value in message.ListFields():
            values = list(value) if _repeats(field) else [value]
            # Raw numbers have many places, names few: the ends of a long list will do.
            for index, each in enumerate(values) if len(values) < 50 else [*enumerate(values)][:2]:
                found.append((message, field, index if _repeats(field) else None))
                if field.message_type is not None:
                    pending.append(each)
    return found


def _change(random: Random, place: _Place, places: list[_Place]) -> None:
    message, field, index = place
    try:
        if field.message_type is not None:
            _change_message(random, place, places)
        elif index is None:
            if random.randrange(5) == 0:
                message.ClearField(field.name)
            else:
                setattr(message, field.name, _other(random, getattr(message, field.name), field, places))
        else:
            values = getattr(message, field.name)
            match random.randrange(5):
                case 0:
                    del values[index]
                case 1:
                    values.append(values[index])
                case _:
                    values[index] = _other(random, values[index], field, places)
    except (ValueError, TypeError, IndexError):
        # Out of the field's range, or gone with an earlier change: the case is one change poorer.
        return


def _change_message(random: Random, place: _Place, places: list[_Place]) -> None:
    message, field, index = place
    alike = [other for other in places if other[1].message_type is field.message_type]
    other, other_field, other_index = random.choice(alike)
    source = getattr(other, other_field.name)
    source = source if other_index is None else source[other_index]
    if index is None:
        if random.randrange(2):
            message.ClearField(field.name)
        else:
            copy = type(source)()
            copy.CopyFrom(source)
            getattr(message, field.name).CopyFrom(copy)
        return
    values = getattr(message, field.name)
    match random.randrange(5):
        case 0 | 1:
            del values[index]
        case 2:
            values.add().CopyFrom(values[index])
        case 3:
            copy = type(source)()
            copy.CopyFrom(source)
            values[index].CopyFrom(copy)
        case _:
            order = list(values)
            random.shuffle(order)
            copies = []
            for each in order:
                copy = type(each)()
                copy.CopyFrom(each)
                copies.append(copy)
            del values[:]
            values.extend(copies)


def _other(random: Random, value: Any, field: Any, places: list[_Place]) -> Any:
    if field.enum_type is not None:
        return random.choice([each.number for each in field.enum_type.values])
    if isinstance(value, str):
        names = [
            getattr(message, other.name)
            for message, other, index in random.sample(places, min(len(places), 40))
            if index is None and other.message_type is None and isinstance(getattr(message, other.name), str)
        ]
        return random.choice([*names, random.choice(WORDS), value + "x"])
    if isinstance(value, bytes):
        return _other_numbers(random, value)
    if isinstance(value, float):
        return random.choice((random.choice(FLOATS), -value, value * 3, value * 1e30))
    return random.choice((random.choice(INTEGERS), random.choice(INTEGERS[:8]), value + 1, value - 1, -value))


def _other_numbers(random: Random, data: bytes) -> bytes:
    """Raw data: its length changed, or four of its bytes a float that is none."""
    if random.randrange(2) or len(data) < 4:
        return bytes_of(random, data)
    at = random.randrange(len(data) // 4) * 4
    number = random.choice((b"\x00\x00\xc0\x7f", b"\x00\x00\x80\x7f", b"\x00\x00\x80\xff", b"\xff\xff\x7f\x7f"))
    return data[:at] + number + data[at + 4 :]
