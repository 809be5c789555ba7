"""The verdict is LoadGen's own, from logs that it wrote; a log that is missing, damaged or of another test is an error.

The logs in `loadgen_logs` are LoadGen 6.0.17's, of tests of `FakeSession` that took a fraction of a second.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from alexnet_deploy.bench.loadgen_log import (
    ACCURACY,
    DETAIL,
    SUMMARY,
    answers_from_log,
    verdict_from_logs,
)
from alexnet_deploy.bench.loadgen_options import Scenario
from alexnet_deploy.errors import SessionError

LOGS = Path(__file__).with_name("loadgen_logs")
# mlperf.conf of LoadGen 6.0.
SEEDS = {
    "qsl_rng_seed": 2085463073848966840,
    "sample_index_rng_seed": 2747215439041700203,
    "schedule_rng_seed": 16159082839903944936,
}


def test_a_valid_single_stream() -> None:
    verdict = verdict_from_logs(LOGS / "single-stream-valid", Scenario.SINGLE_STREAM)
    assert verdict.valid and verdict.invalid_because == () and verdict.errors == ()
    assert (verdict.metric.name, verdict.metric.unit) == ("90th percentile latency", "ms")
    assert verdict.metric.value == verdict.latency_ms["p90"] == 1.383929
    assert verdict.also == {"early_stopping_ms": 3.05243}
    assert list(verdict.latency_ms) == ["p50", "p90", "p95", "p97", "p99", "p99.9", "min", "mean", "max"]
    assert verdict.queries == verdict.samples == 145 and verdict.duration_s == 0.202
    assert verdict.version.startswith("6.0.17") and verdict.seeds == SEEDS


def test_a_valid_multi_stream_is_about_whole_queries() -> None:
    verdict = verdict_from_logs(LOGS / "multi-stream-valid", Scenario.MULTI_STREAM)
    assert verdict.valid and (verdict.queries, verdict.samples) == (662, 8 * 662)
    assert verdict.metric.value == verdict.latency_ms["p99"] == 8.043631
    assert verdict.also == {"early_stopping_ms": 19.472916}


def test_early_stopping_alone_is_a_reason() -> None:
    verdict = verdict_from_logs(LOGS / "single-stream-invalid", Scenario.SINGLE_STREAM)
    assert not verdict.valid and verdict.also == {}
    assert verdict.invalid_because == (
        "early stopping not satisfied",
        "Only processed 10 queries. Need to process at least 64 queries for early stopping.",
    )


def test_a_server_that_is_late_is_told_to_reduce_its_rate() -> None:
    verdict = verdict_from_logs(LOGS / "server-invalid", Scenario.SERVER)
    assert not verdict.valid
    assert verdict.metric.value == 1037.09 and verdict.also == {"scheduled_ips": 1038.82}
    assert verdict.invalid_because[:2] == ("performance constraints not satisfied", "early stopping not satisfied")
    assert verdict.invalid_because[2] == "Reduce target QPS to improve latency."


def test_an_offline_test_that_was_too_short_says_what_to_do() -> None:
    verdict = verdict_from_logs(LOGS / "offline-invalid", Scenario.OFFLINE)
    assert not verdict.valid and verdict.metric.unit == "images/s" and verdict.metric.value == 2898.5
    assert verdict.queries == 1 and verdict.samples == 24
    assert verdict.invalid_because[0] == "min duration not satisfied"
    assert "Increase expected QPS" in verdict.invalid_because[1]


def test_the_answers_that_loadgen_kept_are_classes_of_images() -> None:
    answers = answers_from_log(LOGS / "single-stream-valid")
    assert len(answers) > 100
    assert {image for image, _ in answers} <= set(range(24)) and {answer for _, answer in answers} <= {0, 9}


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    return Path(shutil.copytree(LOGS / "single-stream-valid", tmp_path / "logs"))


@pytest.mark.parametrize("name", [SUMMARY, DETAIL])
@pytest.mark.parametrize("missing", [True, False])
def test_a_log_that_is_missing_or_empty_is_an_error_that_names_it(logs: Path, name: str, missing: bool) -> None:
    (logs / name).unlink()
    if not missing:
        (logs / name).touch()
    with pytest.raises(SessionError, match=name):
        verdict_from_logs(logs, Scenario.SINGLE_STREAM)


def test_logs_of_another_scenario_are_refused(logs: Path) -> None:
    with pytest.raises(SessionError, match="another scenario"):
        verdict_from_logs(logs, Scenario.SERVER)


def test_logs_that_contradict_each_other_are_refused(logs: Path) -> None:
    text = (logs / SUMMARY).read_text()
    (logs / SUMMARY).write_text(text.replace("Result is : VALID", "Result is : INVALID"))
    with pytest.raises(SessionError, match="contradict"):
        verdict_from_logs(logs, Scenario.SINGLE_STREAM)


def without(key: str) -> Callable[[str], str]:
    return lambda text: "\n".join(line for line in text.splitlines() if f'"key": "{key}"' not in line)


def with_value(key: str, value: str) -> Callable[[str], str]:
    def changed(text: str) -> str:
        lines = []
        for line in text.splitlines():
            entry = json.loads(line.removeprefix(":::MLLOG "))
            if entry["key"] == key:
                entry["value"] = json.loads(value)
            lines.append(":::MLLOG " + json.dumps(entry))
        return "\n".join(lines)

    return changed


@pytest.mark.parametrize(
    "change",
    [
        without("result_validity"),
        without("result_90.00_percentile_latency_ns"),
        without("loadgen_version"),
        without("power_end"),
        with_value("result_validity", "1"),
        with_value("result_query_count", '"many"'),
        with_value("result_query_count", "-1"),
        with_value("result_query_count", "true"),
        with_value("result_90.00_percentile_latency_ns", "NaN"),
        with_value("result_90.00_percentile_latency_ns", "1e999"),
        with_value("result_90.00_percentile_latency_ns", "1" + 400 * "0"),
        with_value("result_90.00_percentile_latency_ns", "null"),
        with_value("early_stopping_met", '"yes"'),
        with_value("effective_qsl_rng_seed", "[]"),
        with_value("power_begin", '"yesterday"'),
        lambda text: text[: len(text) // 2],
        lambda text: text + "\n:::MLLOG {}",
        lambda text: text + "\n:::MLLOG []",
        lambda text: text + "\n" + "[" * 100_000,
        lambda text: "\x00\x01" + text,
        lambda _: "<html>",
    ],
)
def test_a_hostile_detail_log_is_an_error_of_ours(logs: Path, change: Callable[[str], str]) -> None:
    (logs / DETAIL).write_text(change((logs / DETAIL).read_text()))
    with pytest.raises(SessionError, match=DETAIL):
        verdict_from_logs(logs, Scenario.SINGLE_STREAM)


@pytest.mark.parametrize(
    "text",
    [
        "", "{}x", "3", "[3]", '[{"qsl_idx": 1}]', '[{"qsl_idx": 1, "data": "zz"}]', '[{"qsl_idx": 1, "data": "00"}]',
        '[{"qsl_idx": -1, "data": "00000000"}]', '[{"qsl_idx": 1, "data": 7}]',
    ],
)  # fmt: skip
def test_a_hostile_accuracy_log_is_an_error_of_ours(logs: Path, text: str) -> None:
    (logs / ACCURACY).write_text(text)
    with pytest.raises(SessionError, match=ACCURACY):
        answers_from_log(logs)


def test_an_accuracy_log_that_is_missing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SessionError, match=ACCURACY):
        answers_from_log(tmp_path)
