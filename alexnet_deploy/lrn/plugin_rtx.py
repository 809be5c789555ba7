"""The LRN plugin for TensorRT-RTX: IPluginV3 classes that its ONNX parser reaches by the node's name.

The engine carries the kernels for its SMs, so that running it needs this module and a driver, and no compiler.
`enqueue` is built, not run: nothing here has a GPU.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from alexnet_deploy.errors import EngineError
from alexnet_deploy.graph import decimal_of
from alexnet_deploy.lrn.cubin import kernel_from_spec
from alexnet_deploy.lrn.kernel_spec import KernelSpec
from alexnet_deploy.lrn.launch import LoadedKernel, packed, unpacked
from alexnet_deploy.lrn.library_name import preload_alias
from alexnet_deploy.lrn.node import DOMAIN, NODE, POOLED_NODE
from alexnet_deploy.specs import LrnSpec, Precision

VERSION = "1"
_KERNELS_FIELD = "kernels"
# TensorRT holds plugins and creators without owning them: dropped here, it calls into freed memory.
_KEPT: list[Any] = []


@cache
def register(trt: Any) -> None:
    """Registers both nodes' creators, once a process.

    Raises:
        EngineError: The registry refused them, or the parser's library cannot be provided.
    """
    preload_alias("libtensorrt_rtx.so", "libtensorrt_rtx.so.1")
    registry = trt.get_plugin_registry()
    for name in (NODE, POOLED_NODE):
        creator = _creator_class(trt)(name)
        _KEPT.append(creator)
        if not registry.register_creator(creator, DOMAIN):
            raise EngineError(f"TensorRT-RTX did not take the plugin {DOMAIN}::{name}")


class _Target:
    """The SMs that the next build is for; a creator is reached by name alone and is told nothing else."""

    sms: tuple[int, ...] = ()


def build_for(sms: tuple[int, ...]) -> None:
    """Names the SMs whose kernels the plugins of the next build carry."""
    _Target.sms = sms


def _precision(trt: Any, dtype: Any) -> Precision:
    known = {trt.float32: Precision.FP32, trt.float16: Precision.FP16, trt.bfloat16: Precision.BF16}
    if dtype not in known:
        raise EngineError("the LRN plugin has no kernel for this type", got=str(dtype), expected=list(known.values()))
    return known[dtype]


@cache
def _plugin_class(trt: Any) -> Any:
    bases = (trt.IPluginV3, trt.IPluginV3OneCore, trt.IPluginV3OneBuild, trt.IPluginV3OneRuntime)

    class LocalResponseNorm(*bases):  # type: ignore[misc]
        """One LRN, with or without its pool; the methods are TensorRT's."""

        def __init__(self, name: str, lrn: LrnSpec, sms: tuple[int, ...], kernels: bytes = b"") -> None:
            for base in bases:
                base.__init__(self)
            self.num_outputs, self.timing_cache_id = 1, ""
            self.plugin_namespace, self.plugin_name, self.plugin_version = DOMAIN, name, VERSION
            self.spec = KernelSpec(lrn=lrn, pooled=name == POOLED_NODE)
            self.sms, self.kernels = sms, kernels
            self.precision: Precision | None = None
            self.loaded: LoadedKernel | None = None

        def get_capability_interface(self, kind: Any) -> Any:
            return self

        def clone(self) -> Any:
            copy = LocalResponseNorm(self.plugin_name, self.spec.lrn, self.sms, self.kernels)
            copy.precision = self.precision
            _KEPT.append(copy)
            return copy

        def get_output_data_types(self, inputs: Any) -> list[Any]:
            self.precision = _precision(trt, inputs[0])
            return [inputs[0]]

        def get_output_shapes(self, inputs: Any, shape_inputs: Any, builder: Any) -> list[Any]:
            output = trt.DimsExprs(inputs[0])
            if self.spec.pooled:
                for axis in (2, 3):
                    output[axis] = _pooled_side(trt, builder, inputs[0][axis])
            return [output]

        def supports_format_combination(self, position: int, inout: Any, num_inputs: int) -> bool:
            types = (trt.float32, trt.float16, trt.bfloat16)
            described = inout[position].desc
            linear = described.format == trt.TensorFormat.LINEAR and described.type in types
            return bool(linear and described.type == inout[0].desc.type)

        def configure_plugin(self, inputs: Any, outputs: Any) -> None:
            self.precision = _precision(trt, inputs[0].desc.type)

        def get_workspace_size(self, inputs: Any, outputs: Any) -> int:
            return 0

        def get_valid_tactics(self) -> list[int]:
            return [1]

        def set_tactic(self, tactic: int) -> None:
            pass

        def get_fields_to_serialize(self) -> Any:
            if not self.kernels:
                assert self.precision is not None
                self.kernels = packed(kernel_from_spec(self.spec, self.precision, sm) for sm in self.sms)
            lrn = self.spec.lrn
            fields = [
                trt.PluginField("size", np.array([lrn.size], np.int32), trt.PluginFieldType.INT32),
                *(
                    trt.PluginField(key, np.array([value], np.float32), trt.PluginFieldType.FLOAT32)
                    for key, value in (("alpha", lrn.alpha), ("beta", lrn.beta), ("bias", lrn.bias))
                ),
                trt.PluginField(_KERNELS_FIELD, np.frombuffer(self.kernels, np.int8), trt.PluginFieldType.INT8),
            ]
            _KEPT.append(fields)
            return trt.PluginFieldCollection(fields)

        def on_shape_change(self, inputs: Any, outputs: Any) -> None:
            pass

        def attach_to_context(self, context: Any) -> Any:
            return self.clone()

        def enqueue(
            self, input_desc: Any, output_desc: Any, inputs: Any, outputs: Any, workspace: int, stream: int
        ) -> None:
            if self.loaded is None:
                self.loaded = LoadedKernel(unpacked(self.kernels))
            n, c, h, w = (int(side) for side in input_desc[0].dims)
            _, _, out_h, out_w = self.spec.output_shape((n, c, h, w))
            grid = self.spec.grid((n, c, h, w))
            self.loaded.launch(int(inputs[0]), (c, h, w, out_h, out_w), int(outputs[0]), grid=grid, stream=stream)

    return LocalResponseNorm


@cache
def _creator_class(trt: Any) -> Any:
    class Creator(trt.IPluginCreatorV3One):  # type: ignore[misc]
        """Makes plugins from a node's attributes, and again from what an engine carries."""

        def __init__(self, name: str) -> None:
            trt.IPluginCreatorV3One.__init__(self)
            self.name, self.plugin_namespace, self.plugin_version = name, DOMAIN, VERSION
            kinds = trt.PluginFieldType
            self.field_names = trt.PluginFieldCollection(
                [
                    trt.PluginField("size", np.array([]), kinds.INT32),
                    *(trt.PluginField(key, np.array([]), kinds.FLOAT32) for key in ("alpha", "beta", "bias")),
                    trt.PluginField(_KERNELS_FIELD, np.array([]), kinds.INT8),
                ]
            )

        def create_plugin(self, name: str, fields: Any, phase: Any) -> Any:
            found = {field.name: np.array(field.data) for field in fields}
            lrn = LrnSpec(
                size=int(found["size"].item()),
                alpha=decimal_of(found["alpha"].item()),
                beta=decimal_of(found["beta"].item()),
                bias=decimal_of(found["bias"].item()),
            )
            kernels = found.get(_KERNELS_FIELD)
            carried = kernels.tobytes() if kernels is not None else b""
            plugin = _plugin_class(trt)(self.name, lrn, _Target.sms, carried)
            _KEPT.append(plugin)
            return plugin

    return Creator


def _pooled_side(trt: Any, builder: Any, side: Any) -> Any:
    """`(side - 3) // 2 + 1`, as TensorRT computes with sides that it does not know yet."""
    kinds = trt.DimensionOperation
    reduced = builder.operation(kinds.SUB, side, builder.constant(3))
    halved = builder.operation(kinds.FLOOR_DIV, reduced, builder.constant(2))
    return builder.operation(kinds.SUM, halved, builder.constant(1))
