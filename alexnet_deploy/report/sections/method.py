"""What did not run and why, and how the rest was measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from alexnet_deploy.report.markup import bullets
from alexnet_deploy.report.words import plural, reasons

_SCOPES = {
    "compute": "the computation alone, input and output lying where the device computes",
    "compute+copies": "from images in memory to logits in memory, with copies to a device and back, without decoding",
    "end-to-end": "from images as their source has them to logits in memory, with preprocessing, and decoding of files",
}


def not_run(document: Mapping[str, Any]) -> str:
    """One line a session that did not run."""
    return bullets(reasons(document["rows"]))


def how(document: Mapping[str, Any]) -> str:
    """What a reader has to know to believe the figures, or to take them anew."""
    options, rows = document["options"], document["rows"]
    scopes = {str(row["scope"]) for row in rows} or {str(options.get("scope", ""))}
    lines = [f"A time is {_SCOPES.get(scope, scope)} ({scope})." for scope in sorted(scopes) if scope]
    threads = sorted({row["threads"] for row in rows if row["threads"]})
    lines += [
        "Each session runs in a process of its own"
        + (f" with {plural(threads[0], 'thread')}." if len(threads) == 1 else "."),
        f"{options['runs']} runs a row, taken in {plural(options['rounds'], 'turn')} that visit every row, so that a "
        "slower minute of the machine hits all alike. Before its first turn a session runs until its times are "
        "stable, before every later one once; these runs are left out.",
    ]
    for batch in sorted({row["batch"] for row in rows if row.get("evaluated")}):
        lines.append(
            f"At batch {batch} the evaluation of the images is what was timed: every turn has its share, and its first "
            "batch is left out. Rows with requests in flight are timed in a loop there too."
        )
    if any(row.get("anchor_ms") for row in rows):
        lines.append(
            "Before and after every session of every turn two fixed pieces of work were timed, the anchors: they are "
            "in the JSON, and `compare` takes them out of what a slower or a faster machine does."
        )
    lines += [
        "The interval is the 95 % bootstrap interval of the median over the samples, as if these were independent. A "
        "row marked ~ is noisy: the "
        "middle half of its samples spreads over more than a tenth of the median.",
    ]
    if any(row.get("in_flight", 1) > 1 for row in rows):
        lines.append(
            "With the hint «throughput» several requests are in flight at once: such a row's latency holds its "
            "waiting, and is to be compared by images per second."
        )
    if any(row.get("roofline") for row in rows):
        lines.append(
            "A row's limit is the sum over its layers of the longer of two times: reading the layer's weights once at "
            "the measured bandwidth, and doing its multiply-adds at the measured peak of its precision. Activations "
            "are not counted, since a cache may hold them; one that holds weights too can beat the limit."
        )
    lines.append("Raw samples, in the order taken, are in the JSON beside this page.")
    return bullets(lines)
