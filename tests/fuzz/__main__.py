"""`python -m tests.fuzz`: for so many seconds, or one case anew."""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import time
from collections.abc import Iterator

from tests.fuzz.pool import Chunk, outcomes, table, tallies
from tests.fuzz.target import FAILED, Outcome, outcome_of
from tests.fuzz.targets import TARGETS

_CHUNK = 25


def chunks(names: list[str], first: int, until: float) -> Iterator[Chunk]:
    """Every target in turn, as often as a test run would take it, until the time is up."""
    for turn in itertools.count():
        for name in names:
            count = max(_CHUNK * TARGETS[name].cases // 1000, 1)
            yield Chunk(name, first + turn * count, count)
            if time.monotonic() >= until:
                return


def _shown(found: Iterator[Outcome]) -> Iterator[Outcome]:
    for outcome in found:
        if outcome.kind == FAILED:
            print(f"{outcome.command}: {outcome.detail.strip().splitlines()[-1]}", file=sys.stderr, flush=True)
        yield outcome


def main() -> int:
    """Returns 1 where a case failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("target", nargs="?", choices=list(TARGETS), help="one target alone")
    parser.add_argument("number", nargs="?", type=int, help="one case, in this process")
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--first", type=int, default=1_000_000, help="number of the first case; a test run begins at 0")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()
    if options.number is not None:
        found = outcome_of(TARGETS[options.target], options.number)
        print(f"{found.kind} in {found.seconds:.3f} s\n{found.detail}")
        return int(found.kind == FAILED)
    names = [options.target] if options.target else list(TARGETS)
    until = time.monotonic() + options.seconds
    running = outcomes(chunks(names, options.first, until), workers=options.workers)
    by_name = tallies(_shown(running), names)
    print(table(by_name))
    return int(any(tally.failures for tally in by_name.values()))


if __name__ == "__main__":
    sys.exit(main())
