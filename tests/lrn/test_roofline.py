"""Traffic on paper is what a hand counts, and the ways of running a norm are in the order that it gives."""

from __future__ import annotations

import pytest

from alexnet_deploy.lrn.roofline import BANDWIDTHS, Traffic, traffic
from alexnet_deploy.specs import Precision
from alexnet_deploy.variants import NetworkSpec

ALONE, THEN, CASTS, FUSED = (
    "LRN kernel alone",
    "LRN, then pool",
    "LRN in FP32 between casts, then pool",
    "LRN and pool fused",
)


def bytes_of(norm: str, precision: Precision, batch: int) -> dict[str, int]:
    rows = [row for row in traffic(NetworkSpec(), precision, batch) if row.norm == norm]
    found = {row.way: row.size_bytes for row in rows}
    assert len(found) == len(rows)
    return found


def test_the_papers_first_norm_in_fp16_by_hand() -> None:
    image, pooled = 2 * 96 * 55 * 55, 2 * 96 * 27 * 27
    assert (image, pooled) == (580_800, 139_968)
    assert bytes_of("norm1", Precision.FP16, 1) == {
        ALONE: 1_161_600,
        THEN: 1_882_368,
        CASTS: 3 * 580_800 + 4 * 1_161_600 + 139_968,
        FUSED: 720_768,
    }


def test_the_papers_second_norm_in_fp32_by_hand() -> None:
    """There are no casts in FP32."""
    image, pooled = 4 * 256 * 27 * 27, 4 * 256 * 13 * 13
    assert bytes_of("norm2", Precision.FP32, 1) == {
        ALONE: 2 * image,
        THEN: 3 * image + pooled,
        FUSED: image + pooled,
    }


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.FP16, Precision.BF16])
@pytest.mark.parametrize("norm", ["norm1", "norm2"])
def test_fusing_moves_least_and_casting_most(norm: str, precision: Precision) -> None:
    found = bytes_of(norm, precision, 1)
    assert found[FUSED] < found[ALONE] < found[THEN]
    if precision is not Precision.FP32:
        assert found[CASTS] > 3 * found[THEN]
        # The pool leaves a quarter.
        assert found[FUSED] / found[CASTS] < 0.15


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.FP16])
def test_a_batch_moves_its_images(precision: Precision) -> None:
    one, sixteen = (traffic(NetworkSpec(), precision, batch) for batch in (1, 16))
    assert [16 * row.size_bytes for row in one] == [row.size_bytes for row in sixteen]
    assert [(row.norm, row.way, row.passes) for row in one] == [(row.norm, row.way, row.passes) for row in sixteen]


def test_bf16_moves_what_fp16_moves() -> None:
    assert traffic(NetworkSpec(), Precision.BF16, 4) == traffic(NetworkSpec(), Precision.FP16, 4)


@pytest.mark.parametrize("variant", ["caffenet", "owt"])
def test_where_no_pool_follows_a_norm_there_is_nothing_to_fuse(variant: str) -> None:
    assert traffic(NetworkSpec(variant=variant), Precision.FP16, 1) == []


def test_the_document_has_the_time_at_each_bandwidth() -> None:
    row = Traffic(norm="norm1", way=FUSED, passes="read, write a quarter", size_bytes=3_350_000)
    assert row.to_json() == {
        "norm": "norm1",
        "way": FUSED,
        "passes": "read, write a quarter",
        "bytes": 3_350_000,
        "microseconds": {"H100 SXM": 1.0, "RTX 4090": 3.32},
    }
    assert set(row.to_json()["microseconds"]) == set(BANDWIDTHS)
