"""Engines with the LRN plugin: it is there for every norm with a kernel for every SM, and native without being asked.

Nothing runs: there is a GPU only where tests/gpu runs.
"""

from __future__ import annotations

import dataclasses
import gc
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper

from alexnet_deploy.engines.build import engine_from_onnx
from alexnet_deploy.engines.options import EngineOptions
from alexnet_deploy.engines.proof import Plan, require_plugins, require_precision
from alexnet_deploy.errors import EngineError, PrecisionProofError
from alexnet_deploy.graph import graph_bytes
from alexnet_deploy.lrn.cubin import kernel_from_spec
from alexnet_deploy.lrn.kernel_spec import KernelSpec
from alexnet_deploy.lrn.launch import LoadedKernel, packed, unpacked
from alexnet_deploy.lrn.node import DOMAIN, NODE, POOLED_NODE, lower_to_plugin
from alexnet_deploy.specs import LrnSpec, Precision
from tests.graphs import CONVOLUTIONS, LINEARS, engine_graph, model_of

trt = pytest.importorskip("tensorrt_rtx")

LAYERS = list(CONVOLUTIONS + LINEARS)
ALL = (Precision.FP32, Precision.FP16, Precision.BF16, Precision.INT8)
SMS = (86, 89)
every_precision = pytest.mark.parametrize("precision", ALL)


@cache
def plugin_graph(precision: Precision, fuse_pool: bool = True) -> bytes:
    model = ir.from_proto(onnx.load_from_string(engine_graph(precision)))
    assert lower_to_plugin(model, fuse_pool=fuse_pool) == 2
    return graph_bytes(model)


def options_for(precision: Precision, sms: tuple[int, ...] = SMS, *, plugin: bool = True) -> EngineOptions:
    return EngineOptions(precision=precision, backend="tensorrt-rtx", sms=sms, plugin=plugin)


def built(precision: Precision, sms: tuple[int, ...] = SMS, *, plugin: bool = True, fuse_pool: bool = True) -> Plan:
    graph = plugin_graph(precision, fuse_pool)
    return engine_from_onnx(graph, options_for(precision, sms, plugin=plugin)).plan


@cache
def plugin_plan(precision: Precision) -> Plan:
    return built(precision)


@every_precision
def test_every_norm_is_the_plugin_with_a_kernel_for_every_sm(precision: Precision) -> None:
    plan = plugin_plan(precision)
    assert plan.plugins == (POOLED_NODE, POOLED_NODE)
    assert plan.plugin_sms == plan.sms == SMS
    require_plugins(plan, 2)
    assert (plan.to_json()["plugins"], plan.to_json()["plugin_sms"]) == ([POOLED_NODE] * 2, ["sm86", "sm89"])


@every_precision
def test_the_layers_around_it_keep_their_precision(precision: Precision) -> None:
    plan = plugin_plan(precision)
    require_precision(plan, precision.value, LAYERS)
    assert sorted(layer.name for layer in plan.layers) == sorted(LAYERS)


@every_precision
def test_the_same_graph_gives_the_same_engine(precision: Precision) -> None:
    first, again = plugin_plan(precision), built(precision)

    def described(plan: Plan) -> dict[str, Any]:
        values = plan.to_json()
        return values | {"layers": sorted(values["layers"], key=lambda layer: str(layer["name"]))}

    assert described(again) == described(first)


@every_precision
def test_without_the_option_the_same_graph_is_built_from_the_nodes_bodies(precision: Precision) -> None:
    plan = built(precision, plugin=False)
    assert plan.plugins == () and plan.plugin_sms == ()
    require_precision(plan, precision.value, LAYERS)


def test_norms_without_their_pool_are_plugins_of_the_other_name() -> None:
    plan = built(Precision.FP16, fuse_pool=False)
    assert plan.plugins == (NODE, NODE)
    require_plugins(plan, 2)


@pytest.mark.parametrize("sms", [(89,), (80, 120, 121), (75, 86)])
def test_the_kernels_are_for_the_sms_of_each_build(sms: tuple[int, ...]) -> None:
    assert built(Precision.FP16, sms).plugin_sms == sms


def test_a_graph_without_the_node_is_refused() -> None:
    with pytest.raises(EngineError, match="no LRN node for the plugin") as caught:
        engine_from_onnx(engine_graph(Precision.FP16), options_for(Precision.FP16))
    assert caught.value.remedy and "--lrn plugin" in caught.value.remedy


def tiny_graph(size: int, *, pooled: bool = False) -> bytes:
    weight = np.ones((8, 3, 3, 3), np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["h"], name="conv1"),
        helper.make_node(
            "LRN", ["h"], ["n" if pooled else "y"], name="norm1", size=size, alpha=1e-3, beta=0.6, bias=2.0
        ),
    ]
    if pooled:
        nodes.append(helper.make_node("MaxPool", ["n"], ["y"], name="pool1", kernel_shape=[3, 3], strides=[2, 2]))
    model = model_of(nodes, ["N", 3, 8, 8], {"w": weight})
    lower_to_plugin(model)
    return graph_bytes(model)


@pytest.mark.parametrize("size", [2, 4, 17])
def test_windows_that_the_native_layer_does_not_take_are_built(size: int) -> None:
    plan = engine_from_onnx(tiny_graph(size), options_for(Precision.FP32)).plan
    assert plan.plugins == (NODE,) and plan.plugin_sms == SMS


def test_many_builds_in_one_process_leave_nothing_behind_that_is_called() -> None:
    """TensorRT holds plugins without owning them: collected here, they would end the process."""
    graphs = (tiny_graph(5), tiny_graph(5, pooled=True))
    for build in range(20):
        plan = engine_from_onnx(graphs[build % 2], options_for(Precision.FP32)).plan
        assert plan.plugins == ((NODE, POOLED_NODE)[build % 2],)
        gc.collect()


def test_a_norm_that_is_missing_fails_the_proof() -> None:
    with pytest.raises(PrecisionProofError, match="every norm and SM") as caught:
        require_plugins(plugin_plan(Precision.FP16), 3)
    assert caught.value.got == "2 norms, kernels for sm86, sm89"
    assert caught.value.expected == "3 norms, kernels for sm86, sm89"
    assert caught.value.remedy


@pytest.mark.parametrize(("kernels", "named"), [((86,), "sm86"), ((), "no SM")])
def test_an_sm_without_a_kernel_fails_the_proof(kernels: tuple[int, ...], named: str) -> None:
    plan = dataclasses.replace(plugin_plan(Precision.FP16), plugin_sms=kernels)
    with pytest.raises(PrecisionProofError, match="every norm and SM") as caught:
        require_plugins(plan, 2)
    assert caught.value.got == f"2 norms, kernels for {named}"


def test_a_native_engine_fails_the_proof() -> None:
    with pytest.raises(PrecisionProofError):
        require_plugins(built(Precision.FP16, plugin=False), 2)


def test_more_kernels_than_the_engine_has_sms_do_no_harm() -> None:
    require_plugins(dataclasses.replace(plugin_plan(Precision.FP16), plugin_sms=(80, 86, 89)), 2)


# The plugin's own methods, as TensorRT-RTX calls them when an engine runs.

PAPER = LrnSpec(size=5, alpha=1e-4, beta=0.75, bias=2.0)


def carried(pooled: bool) -> bytes:
    return packed(kernel_from_spec(KernelSpec(lrn=PAPER, pooled=pooled), Precision.FP16, sm) for sm in SMS)


def from_fields(name: str, kernels: bytes) -> Any:
    """The plugin as a runtime makes it: by the registered creator, from what the engine carries."""
    engine_from_onnx(plugin_graph(Precision.FP16), options_for(Precision.FP16))
    creator = trt.get_plugin_registry().get_creator(name, "1", DOMAIN)
    assert creator is not None
    values = [np.array([PAPER.alpha], np.float32), np.array([PAPER.beta], np.float32)]
    values.append(np.array([PAPER.bias], np.float32))
    kinds = trt.PluginFieldType
    fields = [
        trt.PluginField("size", np.array([PAPER.size], np.int32), kinds.INT32),
        *(trt.PluginField(*pair, kinds.FLOAT32) for pair in zip(("alpha", "beta", "bias"), values, strict=True)),
        trt.PluginField("kernels", np.frombuffer(kernels, np.int8), kinds.INT8),
    ]
    return creator.create_plugin(name, trt.PluginFieldCollection(fields), trt.TensorRTPhase.RUNTIME)


@pytest.mark.parametrize("name", [NODE, POOLED_NODE])
def test_a_plugin_comes_back_from_its_fields(name: str) -> None:
    kernels = carried(name == POOLED_NODE)
    plugin = from_fields(name, kernels)
    assert plugin.spec == KernelSpec(lrn=PAPER, pooled=name == POOLED_NODE)
    assert (plugin.plugin_name, plugin.plugin_namespace, plugin.plugin_version) == (name, DOMAIN, "1")
    fields = {field.name: np.array(field.data) for field in plugin.get_fields_to_serialize()}
    assert set(fields) == {"size", "alpha", "beta", "bias", "kernels"}
    assert fields["kernels"].tobytes() == kernels
    assert (fields["size"].item(), fields["bias"].item()) == (5, 2.0)
    assert fields["alpha"].astype(np.float32).item() == np.float32(1e-4)
    again = from_fields(name, fields["kernels"].tobytes())
    assert (again.spec, again.kernels) == (plugin.spec, plugin.kernels)
    for copy in (plugin.clone(), plugin.attach_to_context(None)):
        assert copy is not plugin and (copy.spec, copy.kernels) == (plugin.spec, kernels)


@pytest.mark.parametrize(
    ("name", "shape", "sizes", "grid"),
    [
        (NODE, (2, 96, 55, 55), (96, 55, 55, 55, 55), 2 * 6 * 95),
        (POOLED_NODE, (2, 96, 55, 55), (96, 55, 55, 27, 27), 2 * 6 * 23),
        (POOLED_NODE, (1, 17, 5, 4), (17, 5, 4, 2, 1), 2),
    ],
)
def test_a_run_launches_its_kernel_over_the_whole_batch(
    name: str,
    shape: tuple[int, ...],
    sizes: tuple[int, ...],
    grid: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kernels = carried(name == POOLED_NODE)
    loads, launches = [], []

    class Recording(LoadedKernel):
        def __init__(self, kernels: Any) -> None:
            loads.append(tuple(kernels))

        def launch(self, source: int, sizes: Any, target: int, *, grid: int, stream: int) -> None:
            launches.append((source, sizes, target, grid, stream))

    monkeypatch.setattr("alexnet_deploy.lrn.plugin_rtx.LoadedKernel", Recording)
    plugin = from_fields(name, kernels)
    described = [SimpleNamespace(dims=shape)]
    for _ in range(2):
        plugin.enqueue(described, described, [0x100], [0x200], 0, 0x55)
    assert launches == [(0x100, sizes, 0x200, grid, 0x55)] * 2
    assert loads == [unpacked(kernels)]


def test_a_plugin_asks_for_linear_memory_of_one_type() -> None:
    plugin = from_fields(NODE, carried(False))

    def described(dtype: Any, layout: Any = trt.TensorFormat.LINEAR) -> Any:
        return SimpleNamespace(desc=SimpleNamespace(type=dtype, format=layout))

    for dtype in (trt.float32, trt.float16, trt.bfloat16):
        pair = [described(dtype), described(dtype)]
        assert all(plugin.supports_format_combination(position, pair, 1) for position in (0, 1))
        assert plugin.get_output_data_types([dtype]) == [dtype]
    for unfit in (
        [described(trt.float16), described(trt.float32)],
        [described(trt.float16), described(trt.float16, trt.TensorFormat.HWC8)],
        [described(trt.int8), described(trt.int8)],
    ):
        assert not all(plugin.supports_format_combination(position, unfit, 1) for position in (0, 1))
    with pytest.raises(EngineError, match="no kernel for this type"):
        plugin.get_output_data_types([trt.int8])
