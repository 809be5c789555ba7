"""Batches, waiting and instances follow from a bench by the stated rules, and only from one of the same artifact."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import pytest

from alexnet_deploy.errors import InputError
from alexnet_deploy.packaging.ports import Port, Ports
from alexnet_deploy.packaging.tuning import Measured, Tuning, default_tuning, measured_rows, tuning_from_bench
from alexnet_deploy.specs import Precision
from tests.packaging.benches import bench_of

DIGEST = "a" * 64
PORTS = Ports(
    input=Port(name="input", data_type="TYPE_FP32", shape=(-1, 3, 8, 8)),
    output=Port(name="logits", data_type="TYPE_FP32", shape=(-1, 10)),
)
FIXED = dataclasses.replace(
    PORTS, input=dataclasses.replace(PORTS.input, shape=(4, 3, 8, 8)), least=4, most=4
)  # fmt: skip
ENGINE = dataclasses.replace(PORTS, most=8, profiles=((1, 1, 8),))


def measured(times: Mapping[str, float], runtime: str = "onnxruntime-cpu", **options: Any) -> Measured:
    document = bench_of({f"{runtime}/{key}": time for key, time in times.items()}, DIGEST, **options)
    return measured_rows(document, runtime, Precision.INT8, DIGEST)


def tuned(times: Mapping[str, float], ports: Ports = PORTS, **options: Any) -> Tuning:
    return tuning_from_bench(measured(times), ports, **options)


def test_the_smallest_batch_as_good_as_the_best_is_preferred() -> None:
    # 100, 320, 400, 410 images per second: batch 8 lacks 2.4 % of batch 16.
    found = tuned({"int8/1": 10, "int8/4": 12.5, "int8/8": 20, "int8/16": 39})
    assert (found.max_batch, found.preferred, found.batches) == (16, 8, True)
    # A tenth of its 20 ms.
    assert found.queue_delay_us == 2000
    assert (found.instances, found.threads) == (1, 2)
    assert any("within 5 % of what batch 16 gives" in reason for reason in found.reasons)


def test_a_batch_that_lacks_more_than_the_share_is_not_preferred() -> None:
    # 400 against 427 images per second is 6.3 % less.
    assert tuned({"int8/1": 10, "int8/8": 20, "int8/16": 37.5}).preferred == 16


def test_where_batching_gives_nothing_no_request_waits() -> None:
    found = tuned({"int8/1": 10, "int8/16": 155})
    # The scheduler is named all the same, since the server would put in one that makes the largest batches.
    assert (found.max_batch, found.preferred, found.batches, found.queue_delay_us) == (16, 1, True, 0)


def test_the_largest_batch_of_an_engine_bounds_all() -> None:
    found = tuned({"int8/1": 10, "int8/8": 20, "int8/16": 30}, ENGINE)
    assert (found.max_batch, found.preferred) == (8, 8)


def test_a_largest_batch_that_was_asked_for_leaves_out_what_is_beyond() -> None:
    found = tuned({"int8/1": 10, "int8/4": 15, "int8/16": 30}, most=8)
    assert (found.max_batch, found.preferred) == (8, 4)


def test_a_fixed_batch_is_not_batched_for() -> None:
    found = tuned({"int8/1": 10, "int8/4": 15, "int8/16": 30}, FIXED)
    assert (found.max_batch, found.preferred, found.batches, found.queue_delay_us) == (0, None, False, 0)


def test_a_bench_of_other_batches_is_refused() -> None:
    with pytest.raises(InputError, match="no batch of the bench fits"):
        tuned({"int8/1": 10, "int8/16": 30}, FIXED)


def test_where_the_server_pads_a_full_batch_has_to_give_twice_as_much() -> None:
    worth = tuned({"int8/1": 10, "int8/16": 79}, pads=True)
    assert (worth.max_batch, worth.preferred, worth.queue_delay_us) == (16, 16, 7900)
    assert any("a lone image takes 79 ms then, and 10 ms without" in reason for reason in worth.reasons)
    not_worth = tuned({"int8/1": 10, "int8/16": 81}, pads=True)
    assert (not_worth.max_batch, not_worth.batches, not_worth.queue_delay_us) == (0, False, 0)


def test_where_the_server_pads_the_largest_batch_is_the_one_that_is_computed() -> None:
    found = tuned({"int8/1": 10, "int8/8": 30, "int8/16": 59}, pads=True)
    assert (found.max_batch, found.preferred) == (8, 8)


def test_where_the_server_pads_nothing_is_guessed_of_a_single_image() -> None:
    assert tuned({"int8/8": 30, "int8/16": 40}, pads=True).max_batch == 0


def test_where_the_server_pads_a_batch_that_was_asked_for_is_taken() -> None:
    found = tuned({"int8/1": 10, "int8/4": 39, "int8/16": 150}, pads=True, most=4)
    assert (found.max_batch, found.preferred, found.queue_delay_us) == (4, 4, 3900)


def test_requests_at_once_are_taken_where_they_give_more() -> None:
    rows = measured({"int8/1": 10, "int8+throughput/1": 6, "int8/16": 160, "int8+throughput/16": 100}, "openvino")
    found = tuning_from_bench(rows, PORTS, pads=True)
    assert (found.max_batch, found.instances) == (0, 4)
    assert any("4 requests at once give 1.67 times" in reason for reason in found.reasons)


def test_requests_at_once_that_give_no_more_are_not_taken() -> None:
    rows = measured({"int8/1": 10, "int8+throughput/1": 9.6}, "openvino")
    assert tuning_from_bench(rows, PORTS, pads=True).instances == 1


def test_requests_at_once_are_compared_at_the_batch_that_will_run() -> None:
    """At batch 1 they would be worth it, at 16 not."""
    times = {"int8/1": 10, "int8+throughput/1": 5, "int8/16": 40, "int8+throughput/16": 40}
    found = tuning_from_bench(measured(times, "openvino"), PORTS, pads=True)
    assert (found.max_batch, found.instances) == (16, 1)


def test_without_a_bench_nothing_waits_and_the_reasons_say_so() -> None:
    found = default_tuning(PORTS)
    assert found == Tuning(max_batch=4, batches=True, reasons=found.reasons)
    assert "nothing was measured" in found.reasons[0]
    assert default_tuning(ENGINE).max_batch == 8
    assert default_tuning(PORTS, most=32).max_batch == 32
    assert default_tuning(PORTS, most=1).batches is False
    assert default_tuning(FIXED).max_batch == 0
    assert default_tuning(PORTS, pads=True) == Tuning(max_batch=0, reasons=default_tuning(PORTS, pads=True).reasons)
    assert default_tuning(PORTS, pads=True, most=8).max_batch == 8


@pytest.mark.parametrize(("ports", "most"), [(ENGINE, 9), (FIXED, 4)])
def test_a_batch_that_the_artifact_does_not_take_is_refused(ports: Ports, most: int) -> None:
    with pytest.raises(InputError, match="takes no such batch"):
        default_tuning(ports, most=most)
    with pytest.raises(InputError, match="takes no such batch"):
        tuned({"int8/1": 10}, ports, most=most)


def test_a_bench_of_another_artifact_is_refused() -> None:
    document = bench_of({"onnxruntime-cpu/int8/1": 10}, DIGEST)
    with pytest.raises(InputError, match="measured another artifact") as caught:
        measured_rows(document, "onnxruntime-cpu", Precision.INT8, "b" * 64)
    assert DIGEST in str(caught.value.got) and "b" * 64 in str(caught.value.expected)


@pytest.mark.parametrize(
    "change",
    [
        {"sessions": []},
        {"passports": None},
        {"passports": [{"file": "graph.onnx", "passport": None}]},
        {"sessions": [{"name": "onnxruntime-cpu/int8", "artifact": ["graph.onnx"]}]},
        {"sessions": "text"},
    ],
)
def test_a_bench_that_does_not_say_what_it_measured_is_refused(change: dict[str, Any]) -> None:
    document = bench_of({"onnxruntime-cpu/int8/1": 10}, DIGEST) | change
    with pytest.raises(InputError, match="measured another artifact"):
        measured_rows(document, "onnxruntime-cpu", Precision.INT8, DIGEST)


def test_a_bench_without_that_row_is_refused_and_says_what_it_has() -> None:
    document = bench_of({"onnxruntime-cpu/fp32/1": 10}, DIGEST)
    with pytest.raises(InputError, match="no row of onnxruntime-cpu/int8") as caught:
        measured_rows(document, "onnxruntime-cpu", Precision.INT8, DIGEST)
    assert caught.value.got == "onnxruntime-cpu/fp32"


def test_a_row_that_failed_is_none() -> None:
    document = bench_of({"onnxruntime-cpu/int8/1": 10, "onnxruntime-cpu/int8/16": 20}, DIGEST)
    document["rows"][1] |= {"status": "failed", "reason": "gone", "latency_ms": None}
    assert list(measured_rows(document, "onnxruntime-cpu", Precision.INT8, DIGEST).single) == [1]


def test_times_that_hold_decoding_are_refused() -> None:
    document = bench_of({"onnxruntime-cpu/int8/1": 10}, DIGEST, scope="end-to-end")
    with pytest.raises(InputError, match="decoding and preprocessing"):
        measured_rows(document, "onnxruntime-cpu", Precision.INT8, DIGEST)
