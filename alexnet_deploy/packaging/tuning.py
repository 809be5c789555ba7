"""How a server batches, from what a bench measured of the very artifact; by cautious rules where none did.

Every number that comes out is one of the bench's, or a stated share of one. docs/triton.md has the rules in words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from alexnet_deploy.errors import InputError
from alexnet_deploy.packaging.ports import Ports
from alexnet_deploy.runtimes.session import THROUGHPUT
from alexnet_deploy.specs import Precision, Scope

# Of the best rate: what a smaller batch may lack and be preferred all the same. `recommend` asks the same of a hint.
NEAR_SHARE = 0.05
# Of the time that the preferred batch takes: the longest that a request waits for others.
DELAY_SHARE = 0.1
# Where the server pads: how many times as many images per second a full batch gives as single ones, at least; then one
# that is half full takes no longer than its images one by one.
PADDED_GAIN = 2.0
# What Triton's backends take by themselves where nothing is said.
UNMEASURED_MOST = 4


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """What to tell a server.

    Attributes:
        max_batch: 0 where the server does not batch.
        batches: Whether requests are put together.
        preferred: A batch that is sent as soon as it is full.
        queue_delay_us: The longest that a request waits for others.
        instances: How often the model is loaded, or how many requests OpenVINO computes at once.
        threads: CPU threads of an instance; None leaves it to the runtime.
        reasons: Each choice in a sentence.
    """

    max_batch: int
    batches: bool = False
    preferred: int | None = None
    queue_delay_us: int = 0
    instances: int = 1
    threads: int | None = None
    reasons: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        return {
            "max_batch": self.max_batch,
            "batches": self.batches,
            "preferred_batch": self.preferred,
            "queue_delay_us": self.queue_delay_us,
            "instances": self.instances,
            "threads": self.threads,
            "reasons": list(self.reasons),
        }


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The rows of a bench that are of one artifact on one runtime.

    Attributes:
        single: One request at a time, by batch.
        overlapped: Of OpenVINO: several requests at once, by batch.
        threads: That the bench gave the runtime.
        where: What measured, for the reasons.
    """

    single: Mapping[int, Row]
    overlapped: Mapping[int, Row]
    threads: int | None
    where: str


@dataclass(frozen=True, kw_only=True)
class Row:
    """Median latency of a batch, and what was in flight with it.

    Attributes:
        rate: Images per second.
    """

    latency_ms: float
    rate: float
    in_flight: int = 1


def measured_rows(document: Mapping[str, Any], runtime: str, precision: Precision, digest: str) -> Measured:
    """The rows of a bench that were measured of the artifact.

    Args:
        document: As `read_bench` checked it.
        runtime: As the bench calls it.
        precision: Of the rows.
        digest: SHA-256 of the artifact.

    Raises:
        InputError: It has none, was made of another artifact, or its times hold more than a server's.
    """
    scope = document["options"].get("scope")
    if scope == Scope.END_TO_END.value:
        raise InputError(
            "the bench's times hold decoding and preprocessing, which a client does",
            got=f"scope {scope}",
            expected=f"scope {Scope.COPIES.value}",
            remedy="measure with `bench`, without --scope",
        )
    name = f"{runtime}/{precision.value}"
    found = {
        None: _rows(document, runtime, precision, None),
        THROUGHPUT: _rows(document, runtime, precision, THROUGHPUT),
    }
    if not found[None]:
        raise InputError(
            f"the bench has no row of {name} that ran",
            got=", ".join(sorted({_name_of(row) for row in document["rows"] if row["status"] == "ok"})) or "none",
            remedy=f"measure it: bench --runtime {runtime} --precision {precision.value}",
        )
    _require_same(document, name, digest)
    threads = document["options"].get("threads")
    cpu = document["environment"].get("cpu")
    return Measured(
        single=found[None],
        overlapped=found[THROUGHPUT],
        threads=threads if isinstance(threads, int) and threads > 0 else None,
        where=f"{cpu if isinstance(cpu, str) else 'the machine'}, {document['made']}",
    )


def tuning_from_bench(measured: Measured, ports: Ports, *, pads: bool = False, most: int | None = None) -> Tuning:
    """The smallest batch that is as good as the best, and what follows from it.

    Args:
        measured: Rows of the artifact.
        ports: Which batches the artifact takes.
        pads: Whether the server computes a full batch, however few images are in it.
        most: The largest batch that the user wants.

    Raises:
        InputError: No batch that was measured goes in.
    """
    limit = _limit(ports, most)
    rows = {batch: row for batch, row in measured.single.items() if ports.least <= batch <= (limit or batch)}
    if not rows:
        raise InputError(
            "no batch of the bench fits the artifact",
            got=f"batches {', '.join(map(str, sorted(measured.single)))}",
            expected=f"{ports.least} to {limit or 'any'}",
            remedy="measure others with `bench --batch`",
        )
    best = max(rows, key=lambda batch: rows[batch].rate)
    preferred = min(batch for batch in rows if rows[batch].rate >= (1 - NEAR_SHARE) * rows[best].rate)
    if pads and most is not None:
        # Every batch costs as much as the one that was asked for.
        best = preferred = max(rows)
    reasons = [f"measured on {measured.where}: {_listed(rows)}", _preferred_reason(preferred, best, rows)]
    batching = preferred > 1 and not ports.fixed
    if batching and pads and most is None:
        batching, reason = _worth_padding(rows, preferred)
        reasons.append(reason)
    delay = int(DELAY_SHARE * rows[preferred].latency_ms * 1e3) if batching else 0
    if batching:
        reasons.append(f"a request waits {delay} us at most, a tenth of what that batch takes")
    instances, more = _instances(measured, preferred if batching else 1)
    served = batching if pads else not ports.fixed
    largest = (most or (preferred if pads else max(rows))) if served else 0
    return Tuning(
        max_batch=largest,
        # A scheduler that sends every request at once has to be named: the server would put one in itself.
        batches=batching or largest > 1,
        preferred=preferred if batching or largest > 1 else None,
        queue_delay_us=delay,
        instances=instances,
        threads=measured.threads,
        reasons=(*reasons, *more),
    )


def default_tuning(ports: Ports, *, pads: bool = False, most: int | None = None) -> Tuning:
    """Without a bench: what the artifact says, one instance, and no waiting.

    Args:
        ports: Which batches the artifact takes.
        pads: Whether the server computes a full batch, however few images are in it.
        most: The largest batch that the user wants.

    Raises:
        InputError: The artifact takes no such batch.
    """
    limit = _limit(ports, most)
    reasons = ["nothing was measured: no request waits for others, and the model is loaded once (--bench changes that)"]
    if ports.fixed:
        reasons.append(f"the artifact takes batches of {ports.least} alone, so the server does not batch")
        return Tuning(max_batch=0, reasons=tuple(reasons))
    if pads and most is None:
        reasons.append("the server does not batch: its backend would compute a full batch for every request")
        return Tuning(max_batch=0, reasons=tuple(reasons))
    if most is not None:
        largest, why = most, "as asked for"
    elif limit is not None:
        largest, why = limit, "the largest of the engine's profiles"
    else:
        largest, why = UNMEASURED_MOST, "what Triton takes by itself"
    reasons.append(f"batches of {largest} at most, {why}")
    return Tuning(max_batch=largest, batches=largest > 1, reasons=tuple(reasons))


def _limit(ports: Ports, most: int | None) -> int | None:
    if most is not None and (ports.fixed or most < ports.least or (ports.most is not None and most > ports.most)):
        raise InputError(
            "the artifact takes no such batch",
            got=f"--max-batch {most}",
            expected=f"batches of {ports.least} alone" if ports.fixed else f"{ports.least} to {ports.most}",
            remedy="leave --max-batch out, or build the engine with a larger --max-batch",
        )
    return most or ports.most


def _worth_padding(rows: Mapping[int, Row], preferred: int) -> tuple[bool, str]:
    if 1 not in rows:
        return False, "the server does not batch: its backend pads, and what a single image takes was not measured"
    gain = rows[preferred].rate / rows[1].rate
    alone = f"a lone image takes {rows[preferred].latency_ms:.3g} ms then, and {rows[1].latency_ms:.3g} ms without"
    if gain >= PADDED_GAIN:
        return True, f"the backend pads, and a full batch gives {gain:.2f} times the images per second; {alone}"
    return False, f"the server does not batch: its backend pads, and a full batch gives {gain:.2f} times as many images"


def _instances(measured: Measured, batch: int) -> tuple[int, list[str]]:
    row, plain = measured.overlapped.get(batch), measured.single.get(batch)
    if row is None or plain is None or row.in_flight < 2:
        return 1, ["one instance: more at once were not measured"]
    gain = row.rate / plain.rate
    if gain < 1 + NEAR_SHARE:
        return 1, [f"one instance: {row.in_flight} requests at once give {gain:.2f} times the images per second"]
    return row.in_flight, [f"{row.in_flight} requests at once give {gain:.2f} times the images per second"]


def _preferred_reason(preferred: int, best: int, rows: Mapping[int, Row]) -> str:
    if rows[preferred].rate >= max(row.rate for row in rows.values()):
        return f"preferred batch {preferred}: it gives the most images per second"
    if preferred == best:
        return f"preferred batch {preferred}: the largest that was measured of those asked for"
    return f"preferred batch {preferred}: within {100 * NEAR_SHARE:.0f} % of what batch {best} gives"


def _listed(rows: Mapping[int, Row]) -> str:
    return ", ".join(
        f"batch {batch} {row.latency_ms:.3g} ms ({row.rate:.4g} images/s)" for batch, row in sorted(rows.items())
    )


def _rows(document: Mapping[str, Any], runtime: str, precision: Precision, hint: str | None) -> dict[int, Row]:
    found = {}
    for row in document["rows"]:
        own = (row.get("runtime"), row.get("precision"), row.get("hint")) == (runtime, precision.value, hint)
        batch, rate, in_flight = row.get("batch"), row.get("throughput_ips"), row.get("in_flight", 1)
        if own and row["status"] == "ok" and _is_count(batch) and _is_count(in_flight) and _is_rate(rate):
            found[batch] = Row(latency_ms=row["latency_ms"]["median"], rate=float(rate), in_flight=in_flight)
    return found


def _require_same(document: Mapping[str, Any], name: str, digest: str) -> None:
    """The bench says which file a session read, and has the passports of all files."""
    sessions = _entries(document.get("sessions"), "name")
    passports = _entries(document.get("passports"), "file")
    file = sessions.get(name, {}).get("artifact")
    passport = passports.get(file, {}).get("passport") if isinstance(file, str) else None
    found = passport.get("sha256") if isinstance(passport, dict) else None
    if found != digest:
        raise InputError(
            "the bench measured another artifact",
            got=f"{file or 'no file'} with sha256 {found}" if found else f"no passport of what {name} read",
            expected=f"sha256 {digest}",
            remedy="measure this one with `bench`, or package in the work directory of the bench",
        )


def _entries(values: object, key: str) -> dict[str, dict[str, Any]]:
    entries = values if isinstance(values, Sequence) and not isinstance(values, str) else []
    return {entry[key]: entry for entry in entries if isinstance(entry, dict) and isinstance(entry.get(key), str)}


def _name_of(row: Mapping[str, Any]) -> str:
    return "/".join(str(row["key"]).split("/")[:2])


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_rate(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1e12
