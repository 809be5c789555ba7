"""A request to the builder is checked before anything is made: architectures, what they can hold, batches, options."""

from __future__ import annotations

from typing import Any

import pytest

from alexnet_deploy import machine, optional
from alexnet_deploy.engines import options as options_module
from alexnet_deploy.engines.options import (
    DEFAULT_SMS,
    EngineOptions,
    Profile,
    able_sms,
    profile_from_text,
    resolved,
    resolved_here,
    sm_label,
    sms_from_text,
)
from alexnet_deploy.errors import EngineError, InputError, MissingDependencyError
from alexnet_deploy.specs import RTX_SMS, Precision

RTX = "tensorrt-rtx"


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
        ("sm90", (90,)),
        ("sm86+sm89+sm120", DEFAULT_SMS),
    ],
)
def test_architectures_are_read_sorted_and_once(text: str, expected: tuple[int, ...]) -> None:
    assert sms_from_text(text, Precision.FP16, None) == expected


def test_nothing_said_stays_nothing() -> None:
    assert sms_from_text(None, Precision.FP16, 90) is None


@pytest.mark.parametrize(
    ("precision", "expected"),
    [
        (Precision.FP16, RTX_SMS),
        (Precision.INT8, (80, 86, 89, 120, 121)),
        (Precision.FP32, (80, 86, 89, 120, 121)),
        (Precision.BF16, (80, 86, 89, 120, 121)),
        (Precision.INT4, (80, 86, 89, 120, 121)),
        (Precision.FP8, (89, 120, 121)),
    ],
)
def test_all_means_all_that_hold_the_precision(precision: Precision, expected: tuple[int, ...]) -> None:
    assert sms_from_text("all", precision, None) == able_sms(precision) == expected
    assert resolved(EngineOptions(precision=precision, sms=expected), RTX, None).sms == expected


def test_native_is_the_gpu_at_hand() -> None:
    assert sms_from_text("native", Precision.FP16, 89) == (89,)
    with pytest.raises(InputError, match="native") as caught:
        sms_from_text("native", Precision.FP16, None)
    assert caught.value.got == "no CUDA device"


@pytest.mark.parametrize(
    "text", ["", "sm", "sm9", "86.5", "turing", "sm86,", "sm-86", "sm86;sm89", "ALL", "sm\u0668\u0669"]
)
def test_an_unknown_architecture_is_refused_with_the_known_ones(text: str) -> None:
    with pytest.raises(InputError, match="no such SM") as caught:
        sms_from_text(text, Precision.FP16, None)
    assert "sm89" in str(caught.value.expected) and caught.value.remedy


def test_an_architecture_that_tensorrt_rtx_does_not_build_for_is_refused() -> None:
    with pytest.raises(InputError, match="does not build for SM90") as caught:
        resolved(EngineOptions(sms=(86, 90)), RTX, None)
    assert caught.value.remedy and "--backend tensorrt" in caught.value.remedy


@pytest.mark.parametrize(
    ("sm", "precision", "nearest", "newer"),
    [
        (75, Precision.INT8, "--fp16 --sm sm75", "sm80"),
        (75, Precision.FP32, "--fp16 --sm sm75", "sm80"),
        (75, Precision.BF16, "--fp16 --sm sm75", "sm80"),
        (75, Precision.INT4, "--fp16 --sm sm75", "sm80"),
        (75, Precision.FP8, "--fp16 --sm sm75", "sm89"),
        (80, Precision.FP8, "--int8 --sm sm80", "sm89"),
        (86, Precision.FP8, "--int8 --sm sm86", "sm89"),
    ],
)
def test_what_an_sm_lacks_is_refused_with_what_comes_nearest(
    sm: int, precision: Precision, nearest: str, newer: str
) -> None:
    with pytest.raises(InputError, match=f"SM{sm} cannot hold {precision.value}") as caught:
        resolved(EngineOptions(precision=precision, sms=(sm, 89)), RTX, None)
    assert caught.value.got and f"sm{sm}" not in str(caught.value.expected)
    assert nearest in str(caught.value.remedy) and f"--{precision.value} from --sm {newer}" in str(caught.value.remedy)


@pytest.mark.parametrize("precision", Precision)
def test_by_default_an_engine_is_for_those_of_the_usual_gpus_that_hold_it(precision: Precision) -> None:
    found = resolved(EngineOptions(precision=precision), RTX, None)
    assert found.backend == RTX
    assert found.sms == tuple(sm for sm in DEFAULT_SMS if sm in able_sms(precision))
    assert resolved(found, RTX, None) == found


def test_turing_takes_fp16() -> None:
    assert resolved(EngineOptions(sms=(75,)), RTX, None).sms == (75,)


@pytest.mark.parametrize("sms", [None, (90,)])
def test_tensorrt_builds_for_the_gpu_at_hand(sms: tuple[int, ...] | None) -> None:
    found = resolved(EngineOptions(sms=sms), "tensorrt", 90)
    assert (found.backend, found.sms) == ("tensorrt", (90,))
    assert resolved(found, "tensorrt", 90) == found


def test_tensorrt_builds_for_no_other_gpu() -> None:
    with pytest.raises(InputError, match="no other") as caught:
        resolved(EngineOptions(sms=(86, 89)), "tensorrt", 86)
    assert "tensorrt-rtx" in str(caught.value.remedy)
    with pytest.raises(EngineError, match="GPU at hand") as missing:
        resolved(EngineOptions(), "tensorrt", None)
    assert missing.value.got == "no CUDA device"


@pytest.mark.parametrize(
    ("precision", "sm", "nearest"), [(Precision.FP8, 86, "--int8"), (Precision.BF16, 75, "--fp16")]
)
def test_tensorrt_refuses_what_the_gpu_lacks(precision: Precision, sm: int, nearest: str) -> None:
    with pytest.raises(InputError, match=f"SM{sm} cannot hold {precision.value}") as caught:
        resolved(EngineOptions(precision=precision), "tensorrt", sm)
    assert nearest in str(caught.value.remedy)
    assert resolved(EngineOptions(precision=Precision.INT8), "tensorrt", 75).sms == (75,)


@pytest.mark.parametrize(("precision", "sm"), [(Precision.FP8, 90), (Precision.FP16, 75)])
def test_an_engine_for_all_gpus_holds_what_all_of_them_do(precision: Precision, sm: int) -> None:
    options = EngineOptions(precision=precision, hardware_compatible="ampere+")
    with pytest.raises(InputError, match="every GPU from SM80") as caught:
        resolved(options, "tensorrt", sm)
    assert "same-sm" in str(caught.value.expected)


TENSORRT_ALONE: list[dict[str, Any]] = [
    {"optimization_level": 3},
    {"version_compatible": True},
    {"hardware_compatible": "ampere+"},
]


@pytest.mark.parametrize("options", TENSORRT_ALONE, ids=lambda options: next(iter(options)))
def test_an_option_of_tensorrt_alone_is_refused_and_named(options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="lacks an option") as caught:
        resolved(EngineOptions(**options), RTX, None)
    name = next(iter(options)).replace("_", "-")
    assert f"--{name}" in str(caught.value.got) and "tensorrt" in str(caught.value.remedy)
    assert (
        resolved(EngineOptions(**options), "tensorrt", 90).to_json() | options
        == resolved(EngineOptions(**options), "tensorrt", 90).to_json()
    )


@pytest.mark.parametrize("name", ["refit", "strip"])
def test_exchangeable_weights_take_a_gpu(name: str) -> None:
    asked: dict[str, Any] = {name: True}
    options = EngineOptions(**asked)
    with pytest.raises(EngineError, match="exchangeable") as caught:
        resolved(options, RTX, None)
    assert caught.value.got == "no CUDA device"
    assert resolved(options, RTX, 89).sms == DEFAULT_SMS


@pytest.mark.parametrize(
    ("least", "best", "most"), [(0, 1, 1), (2, 1, 4), (1, 5, 4), (3, 2, 1), (1, 1, 65_537), (-1, 1, 1)]
)
def test_a_profile_out_of_order_is_refused(least: int, best: int, most: int) -> None:
    with pytest.raises(InputError, match="batch profile") as caught:
        Profile(min=least, opt=best, max=most)
    assert str(most) in str(caught.value.got) and caught.value.expected


def test_a_profile_is_read_as_it_is_written() -> None:
    assert profile_from_text("1:8:16") == Profile(min=1, opt=8, max=16)
    assert str(profile_from_text("8:8:8")) == "8:8:8"


@pytest.mark.parametrize("text", ["", "1", "1:2", "1:2:3:4", "1:x:4", "1:2.5:4"])
def test_a_profile_that_is_no_three_numbers_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="batch profile") as caught:
        profile_from_text(text)
    assert "1:8:16" in str(caught.value.expected)


@pytest.mark.parametrize("profiles", [(), (Profile(), Profile())])
def test_no_profile_or_one_twice_is_refused(profiles: tuple[Profile, ...]) -> None:
    with pytest.raises(InputError, match="profiles"):
        EngineOptions(profiles=profiles)


@pytest.mark.parametrize(
    "options",
    [
        {"workspace_bytes": 0},
        {"workspace_bytes": 1 << 63},
        {"optimization_level": 6},
        {"hardware_compatible": "hopper"},
    ],
)
def test_an_option_that_cannot_be_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="no such") as caught:
        EngineOptions(**options)
    assert caught.value.expected


def test_the_label_goes_into_file_names() -> None:
    assert sm_label((86, 89, 120)) == "sm86+sm89+sm120"
    assert sms_from_text(sm_label((86, 89)), Precision.INT8, None) == (86, 89)


def test_options_are_plain_values() -> None:
    values = EngineOptions(precision=Precision.INT8, sms=(89,)).to_json()
    assert values == {
        "precision": "int8", "backend": "auto", "sms": (89,), "profiles": ({"min": 1, "opt": 1, "max": 16},),
        "plugin": False, "workspace_bytes": None, "optimization_level": None, "version_compatible": False,
        "hardware_compatible": None, "refit": False, "strip": False,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("sms", "expected"),
    [(None, ("tensorrt", (90,))), ((90,), ("tensorrt", (90,))), ((86, 89), ("tensorrt-rtx", (86, 89)))],
)
def test_auto_goes_by_what_is_here_and_what_is_asked(
    sms: tuple[int, ...] | None, expected: tuple[str, tuple[int, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "count_gpus", lambda: 1)
    monkeypatch.setattr(optional, "is_installed", lambda _module: True)
    monkeypatch.setattr(options_module, "tensorrt_version", lambda _backend: "1")
    monkeypatch.setattr(options_module, "gpu_sm", lambda: 90)
    found = resolved_here(EngineOptions(sms=sms))
    assert (found.backend, found.sms) == expected


def test_what_is_missing_is_said_before_what_it_could_not_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(options_module, "gpu_sm", lambda: None)
    monkeypatch.setattr(optional, "is_installed", lambda module: module != "tensorrt")
    with pytest.raises(MissingDependencyError, match="tensorrt"):
        resolved_here(EngineOptions(backend="tensorrt"))
    monkeypatch.setattr(options_module, "tensorrt_version", lambda _backend: "1")
    with pytest.raises(EngineError, match="GPU at hand"):
        resolved_here(EngineOptions(backend="tensorrt"))
    with pytest.raises(InputError, match="no such backend"):
        resolved_here(EngineOptions(backend="onnxruntime"))
