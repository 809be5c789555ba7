"""Targets that fail on purpose, in every way that a target can: what the harness itself is tested with."""

from __future__ import annotations

import ctypes
import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from random import Random

from alexnet_deploy.errors import InputError
from tests.fuzz.target import Target, require

# The one case of ten that goes wrong.
BAD = 3


def _planted(name: str, wrong: Callable[[], None]) -> Target:
    def case(_seeds: None, random: Random, _folder: Path) -> None:
        # A case knows itself by its random numbers.
        number = random.random()
        if number == Random(f"{name}/{BAD}").random():
            wrong()
        elif number < 0.5:
            raise InputError("no such thing", got=number)

    return Target(name, "", lambda: None, case, 10)


def _raise() -> None:
    raise KeyError("schema")


def _hang() -> None:
    time.sleep(600)


def _spin() -> None:
    while True:
        pass


def _die() -> None:
    ctypes.string_at(0)


def _abort() -> None:
    os.abort()


def _grow() -> None:
    bytes(40_000_000_000)


def _lie() -> None:
    require(False, "the sky is green")


def _say_nothing() -> None:
    raise InputError("it is wrong")


def _say_too_much() -> None:
    raise InputError("it is wrong" * 1000, got="x" * 100_000, expected="y" * 100_000, remedy="z" * 100_000)


def _warn() -> None:
    warnings.warn("that is old", DeprecationWarning, stacklevel=1)


def _panic() -> None:
    raise type("PanicException", (BaseException,), {})("a library gave up")


def _print() -> None:
    print("a library says something in between", flush=True)


WAYS: dict[str, tuple[Callable[[], None], str | None]] = {
    "raises": (_raise, "KeyError: 'schema'"),
    "hangs": (_hang, "Timeout"),
    "spins": (_spin, "Timeout"),
    "dies": (_die, "Segmentation fault"),
    "aborts": (_abort, "Aborted"),
    "grows": (_grow, "MemoryError"),
    "lies": (_lie, "WrongSuccess: the sky is green"),
    "says-nothing": (_say_nothing, "neither"),
    "says-too-much": (_say_too_much, "characters"),
    "warns": (_warn, "DeprecationWarning: that is old"),
    "panics": (_panic, "PanicException: a library gave up"),
    "prints": (_print, None),
}
TARGETS = {name: _planted(name, wrong) for name, (wrong, _) in WAYS.items()}
