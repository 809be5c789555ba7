"""A plan says its targets, layers, precisions and weights, and the proof passes and fails by them alone."""

from __future__ import annotations

import struct

import pytest

from alexnet_deploy.engines.build import engine_from_onnx
from alexnet_deploy.engines.options import EngineOptions, Profile
from alexnet_deploy.engines.plan import MAGIC, read_plan
from alexnet_deploy.engines.proof import Plan, PlanLayer, require_precision
from alexnet_deploy.errors import EngineError, PrecisionProofError
from alexnet_deploy.graph import weighted_nodes
from alexnet_deploy.specs import Precision
from tests.graphs import CONVOLUTIONS, LINEARS, engine_graph, small_engine, small_graph

LAYERS = CONVOLUTIONS + LINEARS
BYTES = {Precision.FP32: 4, Precision.FP16: 2, Precision.BF16: 2, Precision.INT8: 1}
ALL = list(BYTES)


def plan_of(precision: Precision) -> Plan:
    pytest.importorskip("tensorrt_rtx")
    return read_plan(small_engine(precision).data)


@pytest.mark.parametrize("precision", ALL)
def test_every_layer_is_there_in_its_precision(precision: Precision) -> None:
    plan = plan_of(precision)
    assert sorted(layer.name for layer in plan.layers) == sorted(LAYERS)
    assert {layer.precision for layer in plan.layers} == {precision.value}
    assert {layer.name: layer.op for layer in plan.layers} == {
        name: "conv" if name in CONVOLUTIONS else "linear" for name in LAYERS
    }


@pytest.mark.parametrize("precision", ALL)
def test_the_plan_holds_every_weight_in_its_type(precision: Precision) -> None:
    plan = plan_of(precision)
    held = {layer.name: layer.weight_bytes for layer in plan.layers}
    for layer in weighted_nodes(small_graph()):
        least = BYTES[precision] * layer.weight.size
        # Channels are padded to what the instructions read: conv1's three to four, fc8's ten rows to sixteen.
        assert least <= held[layer.name] <= 1.6 * least, layer.name
    total = sum(held.values())
    assert plan.weight_bytes_by_type[precision.value] >= total
    others = sum(size for name, size in plan.weight_bytes_by_type.items() if name != precision.value)
    assert others < 0.05 * total


@pytest.mark.parametrize("precision", ALL)
def test_the_plan_says_its_targets_and_size(precision: Precision) -> None:
    plan = plan_of(precision)
    assert plan.sms == (86, 89)
    assert plan.size_bytes == len(small_engine(precision).data)
    assert plan.reformats >= 0


def test_the_plan_is_plain_values() -> None:
    plan = plan_of(Precision.INT8)
    values = plan.to_json()
    assert values["sms"] == ["sm86", "sm89"]
    assert values["layers"][0] == {
        "name": plan.layers[0].name,
        "op": plan.layers[0].op,
        "precision": "int8",
        "weight_bytes": plan.layers[0].weight_bytes,
    }
    assert values["layers_by_precision"] == {"int8": len(LAYERS)}
    assert set(values) == {
        "sms", "size_bytes", "layers", "layers_by_precision", "weight_bytes_by_type", "reformats", "plugins",
        "plugin_sms",
    }  # fmt: skip


@pytest.mark.parametrize("precision", ALL)
def test_the_proof_passes_for_what_was_built(precision: Precision) -> None:
    require_precision(plan_of(precision), precision.value, list(LAYERS))


@pytest.mark.parametrize("asked", [Precision.INT8, Precision.FP32])
def test_the_proof_fails_for_another_precision(asked: Precision) -> None:
    with pytest.raises(PrecisionProofError, match="8 of 8 layers") as caught:
        require_precision(plan_of(Precision.FP16), asked.value, list(LAYERS))
    assert caught.value.exit_code == 3
    assert "conv1 fp16" in str(caught.value.got) and asked.value in str(caught.value.expected)
    assert caught.value.remedy


def by_hand(**precisions: str) -> Plan:
    layers = tuple(
        PlanLayer(name=name, op="conv", precision=precision, weight_bytes=1) for name, precision in precisions.items()
    )
    return Plan(sms=(89,), size_bytes=1, layers=layers, weight_bytes_by_type={}, reformats=0)


def test_one_layer_that_fell_back_fails_the_proof() -> None:
    with pytest.raises(PrecisionProofError, match="1 of 2") as caught:
        require_precision(by_hand(conv1="int8", conv2="fp16"), "int8", ["conv1", "conv2"])
    assert caught.value.got == "conv2 fp16"


def test_a_layer_that_is_missing_fails_the_proof() -> None:
    with pytest.raises(PrecisionProofError, match="1 of 2") as caught:
        require_precision(by_hand(conv1="int8"), "int8", ["conv1", "fc6"])
    assert caught.value.got == "fc6 missing"


def test_mixed_operands_fail_the_proof() -> None:
    with pytest.raises(PrecisionProofError):
        require_precision(by_hand(conv1="fp16+int8"), "int8", ["conv1"])


def test_layers_that_the_graph_does_not_name_do_not_matter() -> None:
    require_precision(by_hand(conv1="int8", helper="fp16"), "int8", ["conv1"])


def header(size: int, mask: int = 8) -> bytes:
    return MAGIC + bytes(0x10 - 4) + struct.pack("<Q", size) + bytes(8) + struct.pack("<Q", mask)


@pytest.mark.parametrize(
    "data", [b"", b"vtrt", b"\x08\x07\x12\x04onnx" * 100, b"PK\x03\x04" + bytes(200), header(0)[:30]]
)
def test_what_is_not_an_engine_is_refused(data: bytes) -> None:
    with pytest.raises(EngineError, match="not a TensorRT-RTX engine") as caught:
        read_plan(data)
    assert caught.value.got and caught.value.expected


@pytest.mark.parametrize("share", [0.9, 0.5, 0.01])
def test_an_engine_cut_short_is_refused(share: float) -> None:
    pytest.importorskip("tensorrt_rtx")
    plan = small_engine(Precision.INT8).data
    with pytest.raises(EngineError, match="cut short"):
        read_plan(plan[: int(share * len(plan))])


def test_an_engine_without_layers_in_the_known_form_is_refused() -> None:
    data = header(0x28) + b"\n no layers here"
    with pytest.raises(EngineError, match="known form") as caught:
        read_plan(data)
    assert caught.value.remedy


def test_a_plan_is_read_from_its_text() -> None:
    text = (
        b'\n  tensor={ x name="a" y type=int8 }'
        b'\n  tensor={ const_payload_size=96 name="w" y type=int8 }'
        b'\n  tensor={ const_payload_size=8 name="b" y type=float }'
        b'\n  corrltn={ name="k0_U3" input={ "a" "w" } [ONNX Layer: conv1.weight.dequantized] [ONNX Layer: conv1]'
        b"\n  function={ name=__myl_CastMove x"
        b"\n  function={ name=__myl_Conv x"
    )
    plan = read_plan(header(0x28, mask=8 | 16) + text)
    assert plan.layers == (PlanLayer(name="conv1", op="conv", precision="int8", weight_bytes=96),)
    assert plan.sms == (89, 120)
    assert plan.weight_bytes_by_type == {"int8": 96, "fp32": 8}
    assert plan.reformats == 1


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.FP16, Precision.BF16])
@pytest.mark.parametrize(
    "profiles",
    [
        (Profile(max=1),),
        (Profile(max=1), Profile(min=2, opt=8, max=16)),
        (Profile(max=4), Profile(min=8, opt=8), Profile(max=2)),
    ],
    ids=["batch 1", "batch 1 and more", "three"],
)
def test_products_of_one_row_and_several_profiles_are_read(precision: Precision, profiles: tuple[Profile, ...]) -> None:
    """At batch 1 a matrix product is written out as a kernel; each profile has kernels of its own."""
    pytest.importorskip("tensorrt_rtx")
    options = EngineOptions(precision=precision, backend="tensorrt-rtx", sms=(89,), profiles=profiles)
    built = engine_from_onnx(engine_graph(precision), options)
    require_precision(built.plan, precision.value, list(LAYERS))
    # Without the graph's names the weights' names tell which layer a written-out kernel is.
    alone = read_plan(built.data)
    assert {layer.name: layer.precision for layer in alone.layers} == dict.fromkeys(LAYERS, precision.value)


TENSORS = (
    b'\n  tensor={ x name="i8" y type=int8 }\n  tensor={ const_payload_size=96 name="w8" y type=int8 }'
    b'\n  tensor={ x name="f16" y type=half }\n  tensor={ const_payload_size=192 name="fc6.weight" y type=half }'
    b'\n  tensor={ x name="size" y type=int64 }'
)
INT8_CONV = b'\n  corrltn={ name="conv1_U1" output={"o" } input={"i8" "w8" } [ONNX Layer: conv1]'
INT8_CONV_1 = b'\n  corrltn={ name="conv1 [profile 1]_U1" output={"o" } input={"i8" "w8" } [ONNX Layer: conv1]'
FP16_CONV_1 = b'\n  corrltn={ name="conv1 [profile 1]_U1" output={"o" } input={"f16" "fc6.weight" } [ONNX Layer: conv1]'
OTHER_1 = b'\n  function={ name=__myl_Cast input_args={ "f16 [profile 1]" } }'
FC_OUT = (
    b'\n  function={ name=__myl_AddReluReshMulSum input_args={ "f16" "fc6.weight" } '
    b'layers="[ONNX Layer: conv1][ONNX Layer: relu1][ONNX Layer: fc6]" }'
)
FUSED = (
    b'\n  runtime_fusion={ name=__myl_FcAdd input_args={ "f16" "fc6.weight" "size" } '
    b'layers="[ONNX Layer: fc6][ONNX Layer: relu6]" }'
)
FUSED_1 = b'\n  runtime_fusion={ name=__myl_FcAdd input_args={ "f16 [profile 1]" "w8" } layers="[ONNX Layer: fc6]" }'


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (INT8_CONV, {"conv1": "int8"}),
        (INT8_CONV + INT8_CONV_1, {"conv1": "int8"}),
        (INT8_CONV + FP16_CONV_1, {"conv1": "fp16+int8"}),
        (INT8_CONV + OTHER_1, {"conv1": "int8"}),
(INT8_CONV + OTHER_1 + FC_OUT, {"conv1": "int8+missing", "fc6": "fp16+missing"}),
        (INT8_CONV + FC_OUT, {"conv1": "int8", "fc6": "fp16"}),
        (INT8_CONV + FUSED, {"conv1": "int8", "fc6": "fp16"}),
        (FUSED + FUSED_1, {"fc6": "fp16+int8+unknown"}),
        (FUSED + INT8_CONV_1, {"fc6": "fp16+missing", "conv1": "int8+missing"}),
    ],
)  # fmt: skip
def test_every_kernel_of_every_profile_counts(text: bytes, expected: dict[str, str]) -> None:
    plan = read_plan(header(0x28) + TENSORS + text)
    assert {layer.name: layer.precision for layer in plan.layers} == expected


@pytest.mark.parametrize("precision", [Precision.FP16, Precision.INT8])
def test_weights_that_profiles_share_are_counted_once(precision: Precision) -> None:
    """An engine cannot hold more weights than it has bytes."""
    pytest.importorskip("tensorrt_rtx")
    found = []
    for profiles in ((Profile(),), (Profile(max=1), Profile(min=2, opt=8, max=16))):
        options = EngineOptions(precision=precision, backend="tensorrt-rtx", sms=(89,), profiles=profiles)
        plan = engine_from_onnx(engine_graph(precision), options).plan
        assert sum(plan.weight_bytes_by_type.values()) < plan.size_bytes
        found.append(plan.weight_bytes_by_type[precision.value])
    assert found[1] < 1.7 * found[0]
