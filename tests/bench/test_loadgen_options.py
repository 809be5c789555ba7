"""Options that no scenario can follow are refused before anything runs, and what is laxer than MLPerf is named."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest

from alexnet_deploy.bench.loadgen_options import (
    MLPERF_MIN_DURATION_S,
    SAMPLES_PER_QUERY,
    SHORT_MIN_DURATION_S,
    LoadOptions,
    Rules,
    Scenario,
    rules_from_mlperf,
)
from alexnet_deploy.errors import InputError


def mlperf(**changes: Any) -> Any:
    """LoadGen's settings as its mlperf.conf fills them for ResNet-50."""
    values = {"min_duration_ms": 600_000, "min_query_count": 100, "server_target_latency_ns": 15_000_000}
    return SimpleNamespace(**values | {"performance_sample_count_override": 1024} | changes)


def test_a_scenario_is_spelled_as_loadgen_spells_it() -> None:
    assert [scenario.in_loadgen for scenario in Scenario] == ["SingleStream", "MultiStream", "Offline", "Server"]


def test_the_length_decides_the_duration() -> None:
    short, full = (LoadOptions(scenario=Scenario.OFFLINE, valid_length=valid) for valid in (False, True))
    assert (short.duration_s, full.duration_s) == (SHORT_MIN_DURATION_S, MLPERF_MIN_DURATION_S)
    assert LoadOptions(scenario=Scenario.OFFLINE, valid_length=True, min_duration_s=700).duration_s == 700


@pytest.mark.parametrize(
    "options",
    [
        {"target_qps": 0},
        {"target_qps": -1.0},
        {"target_qps": math.nan},
        {"target_qps": math.inf},
        {"max_batch": 0},
        {"performance_samples": 0},
        {"min_duration_s": 0},
        {"min_queries": 0},
        {"valid_length": True, "min_duration_s": 599},
        {"scenario": Scenario.SINGLE_STREAM, "target_qps": 10},
        {"scenario": Scenario.MULTI_STREAM, "target_qps": 10},
        {"scenario": Scenario.OFFLINE, "target_latency_ms": 10},
    ],
)
def test_what_no_scenario_can_follow_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        LoadOptions(**{"scenario": Scenario.SERVER} | options)


def test_a_streams_batch_is_its_query() -> None:
    largest = {scenario: LoadOptions(scenario=scenario, max_batch=4).largest_batch for scenario in Scenario}
    assert list(largest.values()) == [1, SAMPLES_PER_QUERY, 4, 4]


def rules(scenario: Scenario, images: int = 2000, settings: Any = None, **options: Any) -> Rules:
    return rules_from_mlperf(settings or mlperf(), LoadOptions(scenario=scenario, **options), images)


def test_mlperfs_rules_relax_nothing() -> None:
    found = rules(Scenario.SERVER, valid_length=True)
    assert found.relaxed == () and found.target_latency_ms == 15 and found.min_duration_s == 600
    # Stricter than MLPerf's is not laxer.
    assert found.min_queries > found.mlperf_min_queries == 100
    assert rules(Scenario.SERVER, valid_length=True, target_latency_ms=10).relaxed == ()


def test_every_laxer_rule_is_named() -> None:
    found = rules(Scenario.SERVER, images=1000, target_latency_ms=20, min_queries=50)
    assert found.relaxed == ("min_duration_s", "min_queries", "performance_samples", "target_latency_ms")
    assert found.to_json()["relaxed"] == list(found.relaxed)
    assert (found.min_duration_s, found.mlperf_min_duration_s) == (10, 600)


def test_only_a_server_has_a_latency_to_keep() -> None:
    assert rules(Scenario.OFFLINE).target_latency_ms is None
    assert rules(Scenario.SINGLE_STREAM).mlperf_target_latency_ms is None


@pytest.mark.parametrize(("images", "least"), [(2000, 2000), (24_576, 24_576), (50_000, 24_576)])
def test_offline_asks_for_the_data_set_or_for_mlperfs_number(images: int, least: int) -> None:
    found = rules(Scenario.OFFLINE, images, mlperf(min_query_count=24_576))
    assert found.min_queries == found.mlperf_min_queries == least and found.relaxed == ("min_duration_s",)


def test_no_more_images_are_kept_in_memory_than_there_are() -> None:
    assert rules(Scenario.OFFLINE, 60).performance_samples == 60
    assert rules(Scenario.OFFLINE, 5000, performance_samples=100).performance_samples == 100
