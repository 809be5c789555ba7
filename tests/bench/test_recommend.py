"""The row to deploy is the fastest that keeps the accuracy, and the sentence says what the figures say."""

from __future__ import annotations

from typing import Any

import pytest

from alexnet_deploy.bench.recommend import keeps_accuracy, pareto_front, recommendations


def row_of(
    name: str, ms: float, *, top1: float | None = 0.9, size: int = 100_000_000, **changed: Any
) -> dict[str, Any]:
    runtime, precision, batch = name.split("/")
    return {
        "key": name, "runtime": runtime, "precision": precision, "batch": int(batch), "hint": None, "status": "ok",
        "latency_ms": {"median": ms, "ci95": [0.98 * ms, 1.02 * ms]}, "throughput_ips": 1e3 * int(batch) / ms,
        "size_bytes": size, "top1": top1, "agreement": 0.999, "images": 2000, "in_flight": 1,
        "flips": {"lost": 0, "won": 0, "p_value": 1.0},
    } | changed  # fmt: skip


LOSING = {"lost": 40, "won": 10, "p_value": 2e-5}


def keys(rows: list[dict[str, Any]]) -> list[str]:
    return [row["key"] for row in rows]


def test_the_front_holds_what_nothing_beats() -> None:
    fast = row_of("openvino/int8/1", 5, top1=0.89, size=57)
    exact = row_of("openvino/fp32/1", 14, top1=0.9, size=228)
    slow = row_of("torch/fp32/1", 20, top1=0.9, size=228)
    small = row_of("torch/int4/1", 30, top1=0.8, size=30)
    assert keys(pareto_front([slow, exact, fast, small])) == ["openvino/int8/1", "openvino/fp32/1", "torch/int4/1"]


def test_intervals_that_overlap_beat_nobody() -> None:
    one, other = row_of("a/int8/1", 5.0), row_of("b/int8/1", 5.1)
    assert len(pareto_front([one, other])) == 2
    assert keys(pareto_front([one, row_of("b/int8/1", 5.1, size=200_000_000)])) == ["a/int8/1"]


def test_one_image_puts_no_row_off_the_front() -> None:
    recommended, other = row_of("openvino/int8/1", 4.2, top1=0.9175), row_of("openvino/bf16/1", 4.3, top1=0.918)
    assert keys(pareto_front([recommended, other])) == ["openvino/int8/1", "openvino/bf16/1"]
    (found,) = recommendations([recommended, other], [1], "this CPU")
    assert found["key"] in found["front"]


def test_a_front_of_nothing_is_empty() -> None:
    assert pareto_front([]) == []


def test_the_fastest_that_keeps_the_accuracy_is_recommended() -> None:
    rows = [
        row_of("torch/fp32/1", 20),
        row_of("openvino/int8/1", 5, flips={"lost": 3, "won": 2, "p_value": 1.0}, size=57_000_000),
        row_of("openvino/int4/1", 3, top1=0.88, flips=LOSING),
    ]
    (found,) = recommendations(rows, [1], "this CPU")
    assert found["key"] == "openvino/int8/1"
    for words in (
        "this CPU and batch 1",
        "openvino INT8",
        "4.00x lower than that of torch FP32",
        "-0.05 points",
        "57 MB",
    ):
        assert words in found["sentence"], words


def test_of_two_that_are_as_fast_the_smaller_is_recommended() -> None:
    rows = [row_of("a/fp32/1", 5.0, size=228_000_000), row_of("b/int8/1", 5.1, size=57_000_000)]
    (found,) = recommendations(rows, [1], "this CPU")
    assert found["key"] == "b/int8/1" and "as low as that of a FP32" in found["sentence"]


def test_more_images_a_second_are_mentioned_where_another_row_gives_them() -> None:
    rows = [
        row_of("openvino/int8/16", 40),
        row_of(
            "openvino/int8/16",
            70,
            hint="throughput",
            key="openvino/int8+throughput/16",
            in_flight=2,
            throughput_ips=457,
        ),
    ]
    (found,) = recommendations(rows, [16], "this CPU")
    assert found["key"] == "openvino/int8/16"
    assert "openvino INT8 with the throughput hint gives 457 against 400" in found["sentence"]
    assert found["front"] == ["openvino/int8/16"]


def test_a_faster_row_that_loses_accuracy_is_no_rival() -> None:
    fast, exact = row_of("openvino/int8/1", 5, flips=LOSING), row_of("onnxruntime-cpu/fp32/1", 13.7)
    (found,) = recommendations([fast, exact], [1], "this CPU")
    assert found["key"] == "onnxruntime-cpu/fp32/1"
    assert "the lowest of those that keep the accuracy" in found["sentence"] and "as low as" not in found["sentence"]


def test_the_most_images_are_looked_for_among_what_keeps_the_accuracy() -> None:
    rows = [
        row_of("openvino/int8/16", 40),
        row_of("openvino/int4/16", 35, flips=LOSING, in_flight=2, throughput_ips=900),
        row_of("openvino/bf16/16", 60, in_flight=2, throughput_ips=500, hint="throughput"),
    ]
    (found,) = recommendations(rows, [16], "this CPU")
    assert "openvino BF16 with the throughput hint gives 500 against 400" in found["sentence"]


def test_nothing_sound_is_said_to_be_nothing() -> None:
    (found,) = recommendations([row_of("a/int4/1", 3, flips=LOSING)], [1], "this CPU")
    assert found["key"] is None and "nothing can be recommended" in found["sentence"]
    (found,) = recommendations([row_of("a/int4/1", 3) | {"status": "failed"}], [1], "this CPU")
    assert found["front"] == [] and found["key"] is None and found["sentence"].endswith("no row ran.")


@pytest.mark.parametrize(
    ("changed", "kept"),
    [
        ({}, True),
        ({"flips": LOSING}, False),
        # Within chance and beyond half a point: of twenty images, and of two thousand.
        ({"images": 20, "flips": {"lost": 5, "won": 0, "p_value": 0.0625}}, False),
        ({"flips": {"lost": 20, "won": 9, "p_value": 0.061}}, False),
        # Nine images of two thousand: beyond chance, and less than half a point.
        ({"flips": {"lost": 9, "won": 0, "p_value": 0.004}}, True),
        ({"flips": {"lost": 10, "won": 40, "p_value": 2e-5}}, True),
        ({"top1": None, "agreement": 0.998}, True),
        ({"top1": None, "agreement": 0.98}, False),
        ({"agreement": None}, False),
    ],
)
def test_what_keeps_the_accuracy(changed: dict[str, Any], kept: bool) -> None:
    assert keeps_accuracy(row_of("a/int8/1", 3) | changed) is kept


def test_without_labels_the_sentence_speaks_of_agreement() -> None:
    (found,) = recommendations([row_of("a/int8/1", 3, top1=None)], [1], "this CPU")
    assert "agrees with the reference on 99.90 %" in found["sentence"]


def test_a_noisy_interval_makes_no_row_as_fast_as_another() -> None:
    best = row_of("a/int8/1", 5.0, size=60_000_000)
    best["latency_ms"]["ci95"] = [4.8, 9.5]
    slow = row_of("b/int8/1", 9.4, size=57_000_000)
    (found,) = recommendations([best, slow], [1], "this CPU")
    assert found["key"] == "a/int8/1" and found["front"] == ["a/int8/1", "b/int8/1"]
    assert "1.88x lower than that of b INT8" in found["sentence"]
    # One that is no smaller is beaten.
    assert keys(pareto_front([best, row_of("b/int8/1", 9.4, size=60_000_000)])) == ["a/int8/1"]


def test_without_a_reference_nothing_is_recommended() -> None:
    (found,) = recommendations([row_of("a/int8/1", 5.0, agreement=None, flips=None)], [1], "this CPU")
    assert found["key"] is None and "no FP32 session ran" in found["sentence"]
