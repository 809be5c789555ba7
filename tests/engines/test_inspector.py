"""What TensorRT's inspector says becomes the same plan: on answers of real engines, published by others.

`inspections.json` holds excerpts of TensorRT 8 and 10 with their sources, and one in the form of TensorRT 11.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from alexnet_deploy import trt_log
from alexnet_deploy.engines.inspector import plan_from_engine, plan_from_inspection
from alexnet_deploy.engines.proof import Plan, PlanLayer, require_precision
from alexnet_deploy.errors import EngineError, PrecisionProofError
from alexnet_deploy.lrn.node import NODE, POOLED_NODE

SAMPLES: dict[str, dict[str, Any]] = json.loads((Path(__file__).parent / "inspections.json").read_text())


def plan_of(sample: str, layers: dict[str, str]) -> Plan:
    return plan_from_inspection(json.dumps(SAMPLES[sample]), layers, 86, 1000)


def test_an_fp16_engine_of_tensorrt_10() -> None:
    conv, linears = "/features/features.0/Conv", [f"/classifier/classifier.{index}/Gemm" for index in (1, 4, 6)]
    plan = plan_of("alexnet_fp16_trt10_myelin_gemm", {conv: "conv", **dict.fromkeys(linears, "linear")})
    assert [layer.name for layer in plan.layers] == [conv, *linears]
    assert {layer.precision for layer in plan.layers} == {"fp16"}
    assert plan.layers[0] == PlanLayer(name=conv, op="conv", precision="fp16", weight_bytes=2 * 64 * 3 * 11 * 11)
    assert plan.weight_bytes_by_type == {"fp16": 46_464}
    assert (plan.reformats, plan.sms, plan.size_bytes) == (1, (86,), 1000)
    require_precision(plan, "fp16", [conv, *linears])
    with pytest.raises(PrecisionProofError, match="4 of 4"):
        require_precision(plan, "int8", [conv, *linears])


def test_an_fp32_engine_of_tensorrt_10_counts_the_reformats_that_cost() -> None:
    """A NoOp that says it reformats moves nothing."""
    linears = {f"/classifier/classifier.{index}/Gemm": "linear" for index in (1, 4, 6)}
    plan = plan_of("alexnet_fp32_trt10_caskgemmconv", linears)
    assert [(layer.precision, layer.weight_bytes) for layer in plan.layers] == [
        ("fp32", 4 * 4096 * 9216), ("fp32", 4 * 4096 * 4096), ("fp32", 4 * 1000 * 4096)
    ]  # fmt: skip
    assert plan.reformats == 3


def test_a_product_that_is_written_out_as_a_kernel_is_a_layer() -> None:
    plan = plan_of("resnet18_fp16_trt10_fc_as_kgen", {"/fc/Gemm": "linear"})
    assert [(layer.name, layer.op, layer.precision) for layer in plan.layers] == [("/fc/Gemm", "linear", "fp16")]


def test_an_int8_engine_in_the_form_of_tensorrt_11() -> None:
    layers = {"conv1": "conv", "conv2": "conv", "fc6": "linear"}
    plan = plan_of("rtx171_qdq_int8_alexnet_like_sm89", layers)
    assert {layer.name: layer.precision for layer in plan.layers} == dict.fromkeys(layers, "int8")


def test_integer_weights_are_counted_in_bytes() -> None:
    plan = plan_of("trex_resnet18_qat_residual", {})
    assert list(plan.weight_bytes_by_type) == ["int8"]
    # Quantizing and dequantizing on its own is what reformats are here.
    assert plan.reformats == 3


def row(**values: Any) -> dict[str, Any]:
    return {
        "Name": "a",
        "LayerType": "CaskConvolution",
        "Metadata": "[ONNX Layer: conv1]\x1e[ONNX Layer: relu1]",
    } | values


def tensor(kind: str) -> dict[str, Any]:
    return {"Name": "t", "Dimensions": [1], "Format/Datatype": kind}


def weight(kind: str) -> dict[str, Any]:
    return tensor(kind) | {"Name": "__mye738dconst"}


INT8, FP16 = "Thirty-two wide channel vectorized row major Int8 format", "Row major linear FP16 format"


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"Inputs": [tensor(INT8)], "Weights": {"Type": "Int8", "Count": 4}}, "int8"),
        ({"Inputs": [tensor(FP16)], "Weights": {"Type": "Half", "Count": 4}}, "fp16"),
        ({"Inputs": [tensor(FP16)], "Weights": {"Type": "Int8", "Count": 4}}, "fp16+int8"),
        ({"Inputs": [tensor("Channel major BFloat16 format")], "Weights": {"Type": "BFloat16", "Count": 4}}, "bf16"),
        ({"Inputs": [tensor("Row major linear FP32")], "Weights": {"Type": "Float", "Count": 4}}, "fp32"),
        ({"LayerType": "gemm", "Inputs": [tensor("Int8"), weight("Int8")]}, "int8"),
        ({"LayerType": "gemm", "Inputs": [tensor("FP8"), weight("FP8")]}, "fp8"),
        ({"LayerType": "gemm", "Inputs": [tensor("Half"), weight("Int4")]}, "fp16+int4"),
        ({"LayerType": "gemm", "Inputs": [tensor("Int8"), weight("Half")]}, "fp16+int8"),
        # TensorRT 10.16 names no weights: the kernel says it, or nothing does.
        ({"LayerType": "gemm", "Inputs": [tensor("Int8")], "TacticName": "sm80_xmma_gemm_i8i8_i8i32_f32"}, "int8"),
        ({"LayerType": "fusion", "Inputs": [tensor("Int8")], "TacticName": "xmma_gemm_i8f32_i8i32_f32_tn"}, "int8"),
        ({"LayerType": "gemm", "Inputs": [tensor("Int8")]}, "unknown"),
        ({"LayerType": "gemm", "Inputs": [tensor("FP8")]}, "unknown"),
        # A residual is no weight, and a kernel that says otherwise counts.
        ({"LayerType": "fusion", "Inputs": [tensor("Int8"), tensor("Int8")]}, "unknown"),
        ({"LayerType": "fusion", "Inputs": [tensor("Int8"), tensor("Int8")], "TacticName": "xmma_fprop_f16f16_f16"},
         "fp16+int8"),
        ({"Inputs": [tensor(FP16)], "Weights": {"Type": "Half", "Count": 4}, "TacticName": "sm80_i8i8_i8i32"},
         "fp16+int8"),
        ({"Inputs": [tensor("Row major linear FP32")], "Weights": {"Type": "Float", "Count": 4},
          "TacticName": "sm80_xmma_fprop_tf32f32_tf32f32_f32"}, "tf32"),
        ({"LayerType": "gemm", "Inputs": [tensor("Half")]}, "fp16"),
        ({"LayerType": "ConvActPool", "Inputs": [tensor(INT8)], "ConvWeights": {"Type": "Int8", "Count": 4}}, "int8"),
        ({"LayerType": "gemm", "Inputs": [tensor("UInt8"), tensor("UInt8")]}, "unknown"),
        ({"Inputs": []}, "unknown"),
    ],
)  # fmt: skip
def test_the_precision_is_that_of_the_arithmetic(values: dict[str, Any], expected: str) -> None:
    plan = plan_from_inspection(json.dumps({"Layers": [row(**values)]}), {"conv1": "conv"}, 89, 1)
    assert [(layer.name, layer.precision) for layer in plan.layers] == [("conv1", expected)]


def test_a_quantizer_that_bears_the_layers_name_is_not_the_layer() -> None:
    quantizer = row(LayerType="kgen", TacticName="__myl_MulMinMaxRouCas_0x1", Inputs=[tensor("Half")])
    plan = plan_from_inspection(json.dumps({"Layers": [quantizer]}), {"conv1": "conv"}, 89, 1)
    assert plan.layers == ()
    with pytest.raises(PrecisionProofError, match="1 of 1") as caught:
        require_precision(plan, "int8", ["conv1"])
    assert caught.value.got == "conv1 missing"


def test_a_second_profile_that_fell_back_fails_the_proof() -> None:
    rows = [
        row(Inputs=[tensor(INT8)], Weights={"Type": "Int8", "Count": 4}),
        row(Name="a [profile 1]", Inputs=[tensor(FP16)], Weights={"Type": "Half", "Count": 4}),
    ]
    plan = plan_from_inspection(json.dumps({"Layers": rows}), {"conv1": "conv"}, 89, 1)
    assert [layer.precision for layer in plan.layers] == ["int8+fp16"]
    with pytest.raises(PrecisionProofError):
        require_precision(plan, "int8", ["conv1"])


@pytest.mark.parametrize("name", [NODE, POOLED_NODE])
def test_our_plugin_is_seen(name: str) -> None:
    rows = [row(LayerType="PluginV3", Metadata="[ONNX Layer: norm1]", PluginName=name)]
    plan = plan_from_inspection(json.dumps({"Layers": rows}), {}, 89, 1)
    assert (plan.plugins, plan.plugin_sms) == ((name,), (89,))


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", "{}", '{"Layers": 3}', '{"Layers": ["conv1", "conv2"]}', '{"Layers": [{}]}',
     '{"Layers": [{"LayerType": "gemm", "Weights": 3}]}'],
)  # fmt: skip
def test_an_answer_of_another_form_is_an_error(text: str) -> None:
    with pytest.raises(EngineError, match="cannot be read") as caught:
        plan_from_inspection(text, {"conv1": "conv"}, 89, 1)
    assert caught.value.got is not None


def fake_tensorrt(engine: Any) -> Any:
    def log(self: Any, severity: int, message: str) -> None: ...

    runtime = SimpleNamespace(deserialize_cuda_engine=lambda _data: engine)
    severity = SimpleNamespace(INFO=3)
    logger = type("ILogger", (), {"log": log, "Severity": severity})
    return SimpleNamespace(
        __name__="tensorrt",
        ILogger=logger,
        Runtime=lambda _logger: runtime,
        LayerInformationFormat=SimpleNamespace(JSON="json"),
    )


def test_a_built_engine_is_asked_for_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trt_log, "_LOGGERS", {})
    text = json.dumps({"Layers": [row(Inputs=[tensor(FP16)], Weights={"Type": "Half", "Count": 4})]})
    inspector = SimpleNamespace(get_engine_information=lambda form: text if form == "json" else "")
    trt = fake_tensorrt(SimpleNamespace(create_engine_inspector=lambda: inspector))
    plan = plan_from_engine(trt, b"engine", {"conv1": "conv"}, 90)
    assert (plan.sms, plan.size_bytes, plan.layers[0].precision) == ((90,), 6, "fp16")


def test_an_engine_that_its_builder_does_not_open_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trt_log, "_LOGGERS", {})
    with pytest.raises(EngineError, match="what it built"):
        plan_from_engine(fake_tensorrt(None), b"engine", {}, 90)
