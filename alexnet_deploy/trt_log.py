"""What TensorRT says while it builds or runs, kept so that errors can carry its words."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

_LEVELS = ("INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE")
# What TensorRT-RTX logs again and again on a machine without a driver; it builds all the same.
_NO_DRIVER = "cudaError 35"
_LOGGERS: dict[str, Any] = {}


def logger_of(trt: Any) -> Any:
    """One logger a process and backend: TensorRT keeps the first it is given and warns about others."""
    name = trt.__name__
    if name not in _LOGGERS:

        class Logger(trt.ILogger):  # type: ignore[misc]
            def __init__(self) -> None:
                trt.ILogger.__init__(self)
                self.lines: list[str] = []

            def log(self, severity: Any, message: str) -> None:
                level = int(severity)
                if level <= int(trt.ILogger.Severity.INFO) and not is_noise(message):
                    self.lines.append(f"[{_LEVELS[level]}] {message}")

        _LOGGERS[name] = Logger()
    return _LOGGERS[name]


def is_noise(message: str) -> bool:
    """Whether it says no more than that there is no driver."""
    return _NO_DRIVER in message


@contextlib.contextmanager
def recorded(logger: Any) -> Iterator[list[str]]:
    """What is logged from here on, in a list of its own."""
    before, logger.lines = logger.lines, []
    try:
        yield logger.lines
    finally:
        logger.lines = before


def first_error(lines: list[str], otherwise: str) -> str:
    """The first error's own words."""
    return next((line for line in lines if "ERROR" in line.split("]")[0]), otherwise)
