"""A request to the builder is checked before anything is built: architectures, what they can hold, and batches."""

from __future__ import annotations

import pytest

from alexnet_deploy.engines.options import DEFAULT_SMS, RTX_SMS, EngineOptions, sm_label, sms_from_text
from alexnet_deploy.errors import InputError
from alexnet_deploy.specs import Precision


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("sm86", (86,)),
        ("86", (86,)),
        ("SM89", (89,)),
        ("sm86,sm89", (86, 89)),
        ("sm89+sm86", (86, 89)),
        (" sm120 , sm86 ", (86, 120)),
        ("sm86,sm86,86", (86,)),
        ("sm86+sm89+sm120", DEFAULT_SMS),
    ],
)
def test_architectures_are_read_sorted_and_once(text: str, expected: tuple[int, ...]) -> None:
    assert sms_from_text(text, Precision.FP16) == expected


@pytest.mark.parametrize(
    ("precision", "expected"),
    [
        (Precision.FP16, RTX_SMS),
        (Precision.INT8, (80, 86, 89, 120, 121)),
        (Precision.FP32, (80, 86, 89, 120, 121)),
        (Precision.BF16, (80, 86, 89, 120, 121)),
        (Precision.FP8, (89, 120, 121)),
    ],
)
def test_all_means_all_that_hold_the_precision(precision: Precision, expected: tuple[int, ...]) -> None:
    assert sms_from_text("all", precision) == expected


@pytest.mark.parametrize("text", ["", "sm", "sm99", "86.5", "turing", "sm86,", "sm-86", "sm86;sm89", "ALL"])
def test_an_unknown_architecture_is_refused_with_the_known_ones(text: str) -> None:
    with pytest.raises(InputError, match="no such SM") as caught:
        sms_from_text(text, Precision.FP16)
    assert "sm89" in str(caught.value.expected) and caught.value.remedy


@pytest.mark.parametrize("precision", [Precision.INT8, Precision.FP32, Precision.BF16])
def test_turing_is_refused_with_the_reason(precision: Precision) -> None:
    with pytest.raises(InputError, match=f"SM75 cannot hold {precision.value}") as caught:
        sms_from_text("sm89,sm75", precision)
    assert caught.value.got and "sm75" not in str(caught.value.expected)
    assert caught.value.remedy and "--fp16" in caught.value.remedy


def test_turing_takes_fp16() -> None:
    assert sms_from_text("sm75", Precision.FP16) == (75,)


@pytest.mark.parametrize(
    ("least", "best", "most"), [(0, 1, 1), (2, 1, 4), (1, 5, 4), (3, 2, 1), (1, 1, 65_537), (-1, 1, 1)]
)
def test_a_profile_out_of_order_is_refused(least: int, best: int, most: int) -> None:
    with pytest.raises(InputError, match="batch profile") as caught:
        EngineOptions(min_batch=least, opt_batch=best, max_batch=most)
    assert str(most) in str(caught.value.got) and caught.value.expected


def test_a_profile_of_one_batch_is_in_order() -> None:
    assert EngineOptions(min_batch=8, opt_batch=8, max_batch=8).max_batch == 8


def test_the_label_goes_into_file_names() -> None:
    assert sm_label((86, 89, 120)) == "sm86+sm89+sm120"
    assert sms_from_text(sm_label((86, 89)), Precision.INT8) == (86, 89)


def test_options_are_plain_values() -> None:
    values = EngineOptions(precision=Precision.INT8, sms=(89,)).to_json()
    assert values == {
        "precision": "int8", "backend": "auto", "sms": (89,), "min_batch": 1, "opt_batch": 1, "max_batch": 16,
        "plugin": False,
    }  # fmt: skip
