"""A bench that was written to a file, read back and checked, so that whoever compares it finds what it looks for."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeGuard

from alexnet_deploy.bench.candidate import BENCH_SCHEMA
from alexnet_deploy.errors import InputError
from alexnet_deploy.limits import MAX_BENCH_BYTES, bounded_json

_STATUSES = ("ok", "skipped", "failed")
# The exact test counts the ways in which turns can be ranked, which takes the cube of their number.
MOST_ROUNDS = 100
# No time, share or count comes near; the ratio of two such numbers is one still.
_ENDLESS, _SHORTEST_MS = 1e100, 1e-100


def read_bench(path: Path) -> dict[str, Any]:
    """A document that `bench` wrote.

    Raises:
        InputError: The file is none, is of an older schema, or holds what no bench writes.
    """
    try:
        document = bounded_json(path, MAX_BENCH_BYTES)
        # Half of a surrogate pair can be written in JSON, and shown nowhere.
        json.dumps(document, ensure_ascii=False).encode()
    except (OSError, ValueError) as exc:
        raise InputError(f"{path} is no bench", got=str(exc), expected="the JSON that `bench` writes") from exc
    schema = document.get("schema") if isinstance(document, dict) else None
    if schema != BENCH_SCHEMA:
        raise InputError(
            f"{path} is no bench that can be compared",
            got=f"schema {schema}",
            expected=f"schema {BENCH_SCHEMA}",
            remedy="measure it again with `alexnet-deploy bench`",
        )
    wrong = _wrong_with(document)
    if wrong is not None:
        raise InputError(f"{path} is no bench that can be compared", got=wrong, expected="what `bench` writes")
    found: dict[str, Any] = document
    return found


def _wrong_with(document: dict[str, Any]) -> str | None:
    """The first thing that is not as a bench has it."""
    for key in ("environment", "model", "data", "options", "anchor"):
        if not isinstance(document.get(key), dict):
            return f"no {key}"
    rounds, rows = document["options"].get("rounds"), document.get("rows")
    if not isinstance(document.get("made"), str) or not isinstance(rounds, int) or not 1 <= rounds <= MOST_ROUNDS:
        return f"no date, or no number of turns from 1 to {MOST_ROUNDS}"
    if not isinstance(rows, list) or not all(isinstance(row, dict) and isinstance(row.get("key"), str) for row in rows):
        return "rows without a key"
    keys = [row["key"] for row in rows]
    if len(set(keys)) < len(keys):
        return "a key that stands twice"
    return next((f"{row['key']}: {wrong}" for row in rows if (wrong := _wrong_with_row(row)) is not None), None)


def _wrong_with_row(row: dict[str, Any]) -> str | None:
    if row.get("status") not in _STATUSES:
        return f"status {row.get('status')!r}"
    if row["status"] != "ok":
        return None if isinstance(row.get("reason"), str | None) else "a reason that is no text"
    samples, latency, anchor = row.get("samples_ms"), row.get("latency_ms"), row.get("anchor_ms")
    if not _numbers(samples, _is_time):
        return "no samples, or some that are no times"
    if not isinstance(latency, dict) or not _is_time(latency.get("median")):
        return "no median"
    if anchor is not None and not (
        isinstance(anchor, dict) and all(_numbers(anchor.get(piece), _is_time) for piece in ("compute", "memory"))
    ):
        return "an anchor that is no times"
    if any(name not in row or (row[name] is not None and not _is_share(row[name])) for name in ("top1", "agreement")):
        return "an accuracy that is no fraction"
    if not _is_number(row.get("in_flight", 1)):
        return "no number of requests in flight"
    roofline = row.get("roofline")
    if roofline is not None and not (isinstance(roofline, dict) and _is_share(roofline.get("memory_share"))):
        return "a roofline that says no share of memory"
    return None


def _numbers(values: object, right: Callable[[object], bool]) -> bool:
    return isinstance(values, list) and bool(values) and all(right(value) for value in values)


def _is_number(value: object) -> TypeGuard[int | float]:
    # An integer of JSON may be larger than any float.
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _ENDLESS


def _is_time(value: object) -> bool:
    return _is_number(value) and value >= _SHORTEST_MS


def _is_share(value: object) -> bool:
    return _is_number(value) and 0 <= value <= 1
