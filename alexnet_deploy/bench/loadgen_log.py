"""What LoadGen says of a test, read from the logs that it wrote itself.

The detail log has one JSON object a line behind `:::MLLOG`; the summary is for people, and is only asked whether it
says the same.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from alexnet_deploy.bench.loadgen_options import Scenario
from alexnet_deploy.errors import SessionError

SUMMARY, DETAIL, ACCURACY, TRACE = (
    "mlperf_log_summary.txt", "mlperf_log_detail.txt", "mlperf_log_accuracy.json", "mlperf_log_trace.json",
)  # fmt: skip
_MARK = ":::MLLOG "
_TIME = "%m-%d-%Y %H:%M:%S.%f"
_PERCENTILES = {"p50": "50.00", "p90": "90.00", "p95": "95.00", "p97": "97.00", "p99": "99.00", "p99.9": "99.90"}
_SEEDS = ("qsl_rng_seed", "sample_index_rng_seed", "schedule_rng_seed")
_STREAMS = (Scenario.SINGLE_STREAM, Scenario.MULTI_STREAM)
# What no figure reaches; an integer of any size can be compared with it.
_ENDLESS = 1e300
# An answer is the class index, an int32 of the machine's byte order, which is little-endian wherever LoadGen runs.
ANSWER_BYTES = 4


@dataclass(frozen=True, kw_only=True)
class Metric:
    """What a scenario is about: milliseconds of a percentile, or images/s."""

    name: str
    value: float
    unit: str


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What LoadGen says of a test.

    Attributes:
        valid: LoadGen's own word.
        invalid_because: Its reasons and recommendations; empty where valid.
        metric: The scenario's own.
        also: Further figures of the scenario: `early_stopping_ms`, the estimate that a stream's submission reports;
            `scheduled_ips` of server, the images/s at which queries were sent.
        latency_ms: `p50` to `p99.9`, `mean`, `min` and `max`; of a query in multi-stream, of a sample elsewhere.
        queries, samples: How many were issued.
        duration_s: From the first query to the last answer.
        version: Of LoadGen.
        seeds: In force.
        errors: What LoadGen logged as errors on the way.
    """

    valid: bool
    invalid_because: tuple[str, ...]
    metric: Metric
    also: dict[str, float]
    latency_ms: dict[str, float]
    queries: int
    samples: int
    duration_s: float
    version: str
    seeds: dict[str, int]
    errors: tuple[str, ...]


def verdict_from_logs(folder: Path, scenario: Scenario) -> Verdict:
    """Reads the verdict.

    Raises:
        SessionError: A log is missing, damaged, of another scenario, or the two logs contradict each other.
    """
    detail = _Detail(folder / DETAIL)
    if (found := detail.text("effective_scenario")) != scenario.in_loadgen:
        raise SessionError(f"{detail.path} is of another scenario", got=found, expected=scenario.in_loadgen)
    valid = detail.text("result_validity") == "VALID"
    if valid != _summary_says_valid(folder / SUMMARY):
        raise SessionError(f"LoadGen's logs in {folder} contradict each other", got=f"{DETAIL}: valid {valid}")
    queries = detail.count("result_query_count")
    return Verdict(
        valid=valid,
        invalid_because=() if valid else _reasons(detail),
        metric=_metric(detail, scenario),
        also=_also(detail, scenario),
        latency_ms=_latencies(detail, scenario),
        queries=queries,
        samples=queries * detail.count("effective_samples_per_query"),
        duration_s=(detail.time("power_end") - detail.time("power_begin")).total_seconds(),
        version=detail.text("loadgen_version"),
        seeds={name: detail.count(f"effective_{name}") for name in _SEEDS},
        errors=detail.errors,
    )


def answers_from_log(folder: Path) -> tuple[tuple[int, int], ...]:
    """`(image, class)` of the answers that LoadGen kept of what the session gave under load.

    Raises:
        SessionError: The log is missing or damaged.
    """
    path = folder / ACCURACY
    try:
        entries = json.loads(_text(path))
        answers = [(int(entry["qsl_idx"]), bytes.fromhex(entry["data"])) for entry in entries]
    except (ValueError, TypeError, KeyError) as exc:
        raise _damaged(path, exc) from exc
    if any(len(data) != ANSWER_BYTES or index < 0 for index, data in answers):
        raise _damaged(path, f"an answer that is not an image and {ANSWER_BYTES} bytes")
    return tuple((index, int.from_bytes(data, "little", signed=True)) for index, data in answers)


class _Detail:
    """The detail log by key; every access checks the type of what LoadGen wrote there."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._values: dict[str, Any] = {}
        errors = []
        for number, line in enumerate(_text(path).splitlines(), 1):
            try:
                entry = json.loads(line.removeprefix(_MARK))
                self._values[str(entry["key"])] = entry["value"]
                if entry["metadata"]["is_error"]:
                    errors.append(str(entry["value"]))
            except (ValueError, TypeError, KeyError, RecursionError) as exc:
                raise _damaged(path, f"line {number}: {line[:80]!r}") from exc
        self.errors = tuple(dict.fromkeys(errors))

    def text(self, key: str) -> str:
        return str(self._value(key, str))

    def number(self, key: str) -> float:
        value = self._value(key, int | float)
        if isinstance(value, bool) or not 0 <= value < _ENDLESS:
            raise _damaged(self.path, f"{key}: {value!r}")
        return float(value)

    def count(self, key: str) -> int:
        value = self._value(key, int)
        if isinstance(value, bool) or value < 0:
            raise _damaged(self.path, f"{key}: {value!r}")
        return int(value)

    def is_met(self, key: str) -> bool:
        """A rule that the scenario does not have is met."""
        return key not in self._values or bool(self._value(key, bool))

    def time(self, key: str) -> datetime:
        try:
            return datetime.strptime(self.text(key), _TIME)
        except ValueError as exc:
            raise _damaged(self.path, f"{key}: {self.text(key)!r}") from exc

    def milliseconds(self, key: str) -> float:
        return self.number(f"{key}_ns") / 1e6

    def _value(self, key: str, kind: Any) -> Any:
        if key not in self._values:
            raise SessionError(
                f"{self.path} has no {key}", remedy="the test may have ended early: see the log, and measure again"
            )
        value = self._values[key]
        if not isinstance(value, kind):
            raise _damaged(self.path, f"{key}: {value!r}")
        return value


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError as exc:
        raise SessionError(f"LoadGen left no {path}", got=exc.strerror, remedy="measure again") from exc


def _damaged(path: Path, got: object) -> SessionError:
    return SessionError(f"{path} is not what LoadGen writes", got=got, remedy="measure again")


def _summary_says_valid(path: Path) -> bool:
    found = [line for line in _text(path).splitlines() if line.startswith("Result is : ")]
    if len(found) != 1:
        raise _damaged(path, f"{len(found)} lines with the result")
    return found[0] == "Result is : VALID"


def _reasons(detail: _Detail) -> tuple[str, ...]:
    """LoadGen puts early stopping apart from its other reasons, and leaves those empty where it is the only one."""
    rules = {
        "result_perf_constraints_met": "performance constraints not satisfied",
        "result_min_duration_met": "min duration not satisfied",
        "result_min_queries_met": "min queries not satisfied",
        "early_stopping_met": "early stopping not satisfied",
    }
    broken = [words for key, words in rules.items() if not detail.is_met(key)]
    said = [_one_line(detail.text("result_invalid_reason"))]
    if not detail.is_met("early_stopping_met"):
        said.append(_one_line(detail.text("early_stopping_result")))
    return (*broken, *filter(None, said), *detail.errors)


def _one_line(text: str) -> str:
    return " ".join(text.replace(" * ", " ").split())


def _metric(detail: _Detail, scenario: Scenario) -> Metric:
    match scenario:
        case Scenario.SINGLE_STREAM:
            value = detail.milliseconds("result_90.00_percentile_latency")
            return Metric(name="90th percentile latency", value=value, unit="ms")
        case Scenario.MULTI_STREAM:
            value = detail.milliseconds("result_99.00_percentile_per_query_latency")
            return Metric(name="99th percentile latency of a query", value=value, unit="ms")
        case Scenario.OFFLINE:
            return Metric(name="samples per second", value=detail.number("result_samples_per_second"), unit="images/s")
        case Scenario.SERVER:
            value = detail.number("result_completed_samples_per_sec")
            return Metric(name="completed samples per second", value=value, unit="images/s")


def _also(detail: _Detail, scenario: Scenario) -> dict[str, float]:
    if scenario is Scenario.SERVER:
        return {"scheduled_ips": detail.number("result_scheduled_samples_per_sec")}
    if scenario not in _STREAMS or not detail.is_met("early_stopping_met"):
        return {}
    # LoadGen's «ms» is multi-stream, not milliseconds; its unit is the nanosecond.
    key = "early_stopping_latency_ss" if scenario is Scenario.SINGLE_STREAM else "early_stopping_latency_ms"
    return {"early_stopping_ms": detail.number(key) / 1e6}


def _latencies(detail: _Detail, scenario: Scenario) -> dict[str, float]:
    each, of_query = ("_per_query", "_query") if scenario is Scenario.MULTI_STREAM else ("", "")
    found = {
        name: detail.milliseconds(f"result_{percent}_percentile{each}_latency")
        for name, percent in _PERCENTILES.items()
    }
    ends = {name: detail.milliseconds(f"result_{name}{of_query}_latency") for name in ("min", "mean", "max")}
    return found | ends
