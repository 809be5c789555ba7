"""What a fuzz target is, and what counts as a failure of one."""

from __future__ import annotations

import shutil
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from random import Random
from typing import Any

from alexnet_deploy.errors import AlexnetDeployError

ACCEPTED, REFUSED, FAILED = "accepted", "refused", "failed"
# A message is read by a person; what it quotes of a damaged file must have an end.
LONGEST_MESSAGE = 4000


class WrongSuccess(Exception):
    """The project took what it was given, and what came out is not what the target states."""


def require(holds: object, otherwise: str) -> None:
    """States what must hold of what was taken.

    Raises:
        WrongSuccess: It does not.
    """
    if not holds:
        raise WrongSuccess(otherwise)


@dataclass(frozen=True)
class Target:
    """Something that reads files.

    Attributes:
        name: On the command line.
        about: What is changed, what reads it, and what must hold where it is taken.
        seeds: Makes what is changed; called once a process.
        case: From the seeds, a case's random numbers and an empty folder: writes, reads, and states what must hold.
        cases: How many a test run takes.
    """

    name: str
    about: str
    seeds: Callable[[], Any]
    case: Callable[[Any, Random, Path], None]
    cases: int

    @cached_property
    def made(self) -> Any:
        """The seeds."""
        return self.seeds()


@dataclass(frozen=True)
class Outcome:
    """How one case ended; `detail` is the error's first line, or the traceback of a failure."""

    target: str
    number: int
    kind: str
    detail: str
    seconds: float

    @property
    def command(self) -> str:
        """Runs this case anew."""
        return f"python -m tests.fuzz {self.target} {self.number}"


def outcome_of(target: Target, number: int) -> Outcome:
    """Runs a case in a folder of its own."""
    seeds, begun = target.made, time.perf_counter()
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    try:
        kind, detail = _judged(target, seeds, number, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return Outcome(target.name, number, kind, detail, time.perf_counter() - begun)


def _judged(target: Target, seeds: Any, number: int, folder: Path) -> tuple[str, str]:
    try:
        target.case(seeds, Random(f"{target.name}/{number}"), folder)
    except AlexnetDeployError as exc:
        fault = fault_of(exc)
        return (FAILED, f"{fault}: {str(exc)[:500]}") if fault else (REFUSED, f"{type(exc).__name__}: {exc.problem}")
    except KeyboardInterrupt:
        raise
    except BaseException:  # what compiled code panics with is no Exception
        return FAILED, traceback.format_exc()
    return ACCEPTED, ""


def fault_of(exc: AlexnetDeployError) -> str | None:
    """What is wrong with a refusal; None where it helps a person on."""
    if not exc.problem.strip():
        return "an error without a problem"
    if exc.got is None and exc.expected is None and exc.remedy is None:
        return "an error that says neither what was got, nor what was expected, nor what to do"
    if len(str(exc)) > LONGEST_MESSAGE:
        return f"an error of {len(str(exc))} characters"
    return None
