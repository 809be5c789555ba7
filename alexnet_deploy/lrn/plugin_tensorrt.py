"""The LRN plugin for TensorRT 10 and 11: ahead-of-time quick plugins, whose PTX the engine carries.

An engine with it needs no Python at run time. Built, not run: the package `tensorrt` installs from NVIDIA's index
alone; the signatures are checked against the module `tensorrt.plugin` that NVIDIA publishes as source.
"""

# No `from __future__ import annotations`: TensorRT reads the annotations as objects.

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from alexnet_deploy.errors import EngineError, MissingDependencyError
from alexnet_deploy.graph import decimal_of
from alexnet_deploy.lrn.cubin import kernel_from_spec
from alexnet_deploy.lrn.kernel_spec import POOL_KERNEL, POOL_STRIDE, KernelSpec
from alexnet_deploy.lrn.node import DOMAIN, NODE, POOLED_NODE
from alexnet_deploy.specs import LrnSpec, Precision

# What the kernel reads and writes: type by type the same on both sides, rows of pixels.
_TYPES = "FP32|FP16|BF16"
# Arrays, not int and float: the parser hands a node's attributes over as arrays of these types.
_Int32 = npt.NDArray[np.int32]
_Float32 = npt.NDArray[np.float32]


@cache
def register(trt: Any, sm: int) -> None:
    """Registers both nodes for builds on a GPU of architecture `sm`.

    Raises:
        MissingDependencyError: This TensorRT has no ahead-of-time plugins (they came with 10.9).
    """
    if not hasattr(trt, "QuickPluginCreationRequest"):
        raise MissingDependencyError(
            "the LRN plugin needs TensorRT's ahead-of-time plugins",
            got=f"tensorrt {trt.__version__}",
            expected="10.9 or later",
            remedy="pip install -U 'alexnet-deploy[tensorrt]', or leave out --lrn plugin",
        )
    import tensorrt.plugin as trtp

    for name in (NODE, POOLED_NODE):
        _register(trt, trtp, name, sm)


def creation_flag(trt: Any) -> int:
    """What a network that uses the plugin is created with, besides its other flags."""
    return int(1 << int(trt.NetworkDefinitionCreationFlag.PREFER_AOT_PYTHON_PLUGINS))


def _register(trt: Any, trtp: Any, name: str, sm: int) -> None:
    plugin, pooled = f"{DOMAIN}::{name}", name == POOLED_NODE
    TensorDesc: Any = trtp.TensorDesc

    @trtp.register(plugin)  # type: ignore[untyped-decorator]
    def described(x: TensorDesc, size: _Int32, alpha: _Float32, beta: _Float32, bias: _Float32) -> TensorDesc:
        y = x.like()
        sides = [x.shape_expr[axis] for axis in range(x.ndim)]
        if pooled:
            sides[2:] = [(side - POOL_KERNEL) // POOL_STRIDE + 1 for side in sides[2:]]
        y.shape_expr = type(x.shape_expr).from_tuple(tuple(sides))
        return y

    @trtp.autotune(plugin)  # type: ignore[untyped-decorator]
    def tuned(x: TensorDesc, outputs: tuple[TensorDesc]) -> list[trtp.AutoTuneCombination]:
        return [trtp.AutoTuneCombination(f"{_TYPES}, {_TYPES}", "LINEAR")]

    @trtp.aot_impl(plugin)  # type: ignore[untyped-decorator]
    def compiled(
        x: TensorDesc,
        size: _Int32,
        alpha: _Float32,
        beta: _Float32,
        bias: _Float32,
        outputs: tuple[TensorDesc],
        tactic: int,
    ) -> tuple[str | bytes, str | bytes, trtp.KernelLaunchParams, trtp.SymIntExprs]:
        lrn = LrnSpec(
            size=int(size.item()),
            alpha=decimal_of(alpha.item()),
            beta=decimal_of(beta.item()),
            bias=decimal_of(bias.item()),
        )
        spec = KernelSpec(lrn=lrn, pooled=pooled)
        kernel = kernel_from_spec(spec, _precision(trt, x.dtype), sm)
        n, c, h, w = (x.shape_expr[axis] for axis in range(4))
        out_h, out_w = (outputs[0].shape_expr[axis] for axis in (2, 3))
        block_c, block_p = spec.blocks
        launch = trtp.KernelLaunchParams()
        launch.grid_x = n * trtp.cdiv(c, block_c) * trtp.cdiv(out_h * out_w, block_p)
        launch.block_x, launch.shared_mem = kernel.threads, kernel.shared_bytes
        sizes = trtp.SymIntExprs.from_tuple([trtp.SymInt32(side) for side in (c, h, w, out_h, out_w)])
        return kernel.name.encode(), kernel.ptx.encode(), launch, sizes


def _precision(trt: Any, dtype: Any) -> Precision:
    known = {trt.float32: Precision.FP32, trt.float16: Precision.FP16, trt.bfloat16: Precision.BF16}
    if dtype not in known:
        raise EngineError("the LRN plugin has no kernel for this type", got=str(dtype), expected=list(known.values()))
    return known[dtype]
