"""A process that runs cases: what a case does to it, its parent sees.

Reads `TARGET FIRST COUNT` from its standard input, a line a request, and writes a line of JSON after every case.
"""

from __future__ import annotations

import faulthandler
import json
import os
import resource
import sys
import warnings
from collections.abc import Mapping

from tests.fuzz.target import Target, outcome_of


def serve(targets: Mapping[str, Target], hang_seconds: float, memory_bytes: int) -> None:
    """Answers until the input ends.

    Args:
        targets: By name.
        hang_seconds: A case that takes longer ends the process, with where it was on standard error.
        memory_bytes: What a case may ask for beyond what the process has when it begins to answer.
    """
    answers = os.fdopen(os.dup(1), "w")
    # What a library prints must not come between the answers.
    os.dup2(2, 1)
    faulthandler.enable()
    warnings.simplefilter("error")
    limited = False
    for line in sys.stdin:
        name, first, count = line.split()
        target = targets[name]
        # The seeds are ours: neither limit is about them.
        _ = target.made
        if not limited:
            limit = _address_space() + memory_bytes
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
            limited = True
        for number in range(int(first), int(first) + int(count)):
            faulthandler.dump_traceback_later(hang_seconds, exit=True)
            found = outcome_of(target, number)
            faulthandler.cancel_dump_traceback_later()
            print(json.dumps([found.kind, found.detail, found.seconds]), file=answers, flush=True)


def _address_space() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


if __name__ == "__main__":
    if sys.argv[1] == "planted":
        from tests.fuzz.planted import TARGETS
    else:
        from tests.fuzz.targets import TARGETS
    serve(TARGETS, float(sys.argv[2]), int(sys.argv[3]))
