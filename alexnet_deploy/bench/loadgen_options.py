"""What to ask of MLPerf's load generator, and under which of MLPerf's rules."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from alexnet_deploy.errors import InputError

# MLPerf's own for every scenario (LoadGen's mlperf.conf).
MLPERF_MIN_DURATION_S = 600.0
SHORT_MIN_DURATION_S = 10.0
# A multi-stream query has as many samples (MLPerf inference rules, section 4).
SAMPLES_PER_QUERY = 8
DEFAULT_MAX_BATCH = 16
# Of ResNet-50, MLPerf's benchmark of the same task.
DEFAULT_PERFORMANCE_SAMPLES = 1024
# LoadGen's early stopping (99 % confidence that 99 % are in time) cannot pass below 459 queries, forgives no late
# answer below 662, and three from here on; MLPerf's own minimum of 100 relies on 600 s.
_SERVER_MIN_QUERIES = 1001


class Scenario(StrEnum):
    """How queries arrive (MLPerf inference rules): one after another, eight at a time, all at once, as they come."""

    SINGLE_STREAM = "single-stream"
    MULTI_STREAM = "multi-stream"
    OFFLINE = "offline"
    SERVER = "server"

    @property
    def in_loadgen(self) -> str:
        """LoadGen's spelling: `SingleStream`."""
        return self.value.title().replace("-", "")


@dataclass(frozen=True, kw_only=True)
class LoadOptions:
    """One scenario.

    Attributes:
        scenario: How queries arrive.
        valid_length: At least as long as MLPerf asks, 600 s; 10 s otherwise.
        target_qps: Of server the rate at which queries arrive, of offline the images/s that LoadGen expects; derived
            from a short measurement of the session where None.
        target_latency_ms: Of server: by when 99 % of the queries are to be answered; MLPerf's for ResNet-50 where None.
        max_batch: The largest batch of offline and server; a stream's query is run whole.
        performance_samples: How many preprocessed images are kept in memory, and drawn from, at most.
        min_duration_s: Another duration than that of `valid_length`.
        min_queries: Another number than MLPerf's; of offline it counts images.
    """

    scenario: Scenario
    valid_length: bool = False
    target_qps: float | None = None
    target_latency_ms: float | None = None
    max_batch: int = DEFAULT_MAX_BATCH
    performance_samples: int = DEFAULT_PERFORMANCE_SAMPLES
    min_duration_s: float | None = None
    min_queries: int | None = None

    def __post_init__(self) -> None:
        for name in ("target_qps", "target_latency_ms", "max_batch", "performance_samples", "min_duration_s"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise InputError(f"no such {name.replace('_', ' ')}", got=value, expected="a number above 0")
        if self.min_queries is not None and self.min_queries < 1:
            raise InputError("no such number of queries", got=self.min_queries, expected="1 or more")
        if self.target_qps is not None and self.scenario not in (Scenario.SERVER, Scenario.OFFLINE):
            raise InputError("a stream has no rate: its next query waits for the last answer", got=self.scenario.value)
        if self.target_latency_ms is not None and self.scenario is not Scenario.SERVER:
            raise InputError("only the server scenario has a latency to keep", got=self.scenario.value)
        if self.valid_length and self.duration_s < MLPERF_MIN_DURATION_S:
            raise InputError(
                "that is shorter than MLPerf's rules allow",
                got=f"{self.duration_s:g} s",
                expected=f"{MLPERF_MIN_DURATION_S:g} s or more",
            )

    @property
    def duration_s(self) -> float:
        """The minimum duration in force."""
        if self.min_duration_s is not None:
            return self.min_duration_s
        return MLPERF_MIN_DURATION_S if self.valid_length else SHORT_MIN_DURATION_S

    @property
    def largest_batch(self) -> int:
        """What the session is asked for at most."""
        streams = {Scenario.SINGLE_STREAM: 1, Scenario.MULTI_STREAM: SAMPLES_PER_QUERY}
        return streams.get(self.scenario, self.max_batch)

    def to_json(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        return {
            "scenario": self.scenario.value,
            "valid_length": self.valid_length,
            "target_qps": self.target_qps,
            "target_latency_ms": self.target_latency_ms,
            "max_batch": self.largest_batch,
            "performance_samples": self.performance_samples,
        }


@dataclass(frozen=True, kw_only=True)
class Rules:
    """The rules in force beside those of MLPerf for ResNet-50, as LoadGen itself has them.

    Attributes:
        min_duration_s: Of the test.
        min_queries: Of the test; of offline it counts images.
        performance_samples: Images in memory, from which queries are drawn.
        target_latency_ms: Of server, for 99 % of the queries; None elsewhere.
    """

    min_duration_s: float
    mlperf_min_duration_s: float
    min_queries: int
    mlperf_min_queries: int
    performance_samples: int
    mlperf_performance_samples: int
    target_latency_ms: float | None
    mlperf_target_latency_ms: float | None

    @property
    def relaxed(self) -> tuple[str, ...]:
        """Names of the rules that ask for less than MLPerf's."""
        less = [
            name
            for name in ("min_duration_s", "min_queries", "performance_samples")
            if getattr(self, name) < getattr(self, f"mlperf_{name}")
        ]
        bound, theirs = self.target_latency_ms, self.mlperf_target_latency_ms
        if bound is not None and theirs is not None and bound > theirs:
            less.append("target_latency_ms")
        return tuple(less)

    def to_json(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        return {**self.__dict__, "relaxed": list(self.relaxed)}


def rules_from_mlperf(settings: Any, options: LoadOptions, images: int) -> Rules:
    """The rules of a test.

    Args:
        settings: LoadGen's `TestSettings`, filled from its mlperf.conf.
        options: What was asked for.
        images: How many there are.
    """
    mlperf_queries = int(settings.min_query_count)
    least = _SERVER_MIN_QUERIES if options.scenario is Scenario.SERVER else 1
    if options.scenario is Scenario.OFFLINE:
        # mlperf.conf: a smaller data set is the minimum.
        mlperf_queries = min(mlperf_queries, images)
    server = options.scenario is Scenario.SERVER
    bound = settings.server_target_latency_ns / 1e6 if server else None
    return Rules(
        min_duration_s=options.duration_s,
        mlperf_min_duration_s=settings.min_duration_ms / 1e3,
        min_queries=options.min_queries or max(mlperf_queries, least),
        mlperf_min_queries=mlperf_queries,
        performance_samples=min(options.performance_samples, images),
        mlperf_performance_samples=int(settings.performance_sample_count_override),
        target_latency_ms=options.target_latency_ms or bound,
        mlperf_target_latency_ms=bound,
    )
