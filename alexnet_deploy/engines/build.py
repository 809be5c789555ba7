"""From ONNX to an engine, with TensorRT or TensorRT-RTX; precision lives in the graph, networks are strongly typed."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alexnet_deploy.engines.config import config_from_options, use_timing_cache
from alexnet_deploy.engines.inspector import plan_from_engine
from alexnet_deploy.engines.options import EngineOptions, resolved_here
from alexnet_deploy.engines.parser import network_from_onnx
from alexnet_deploy.engines.plan import read_plan
from alexnet_deploy.engines.progress import STEPS, BuildProgress, monitor_of
from alexnet_deploy.errors import EngineError
from alexnet_deploy.files import write_bytes
from alexnet_deploy.graph_guard import proto_from_bytes
from alexnet_deploy.interrupts import stoppable
from alexnet_deploy.optional import tensorrt_module
from alexnet_deploy.progress import SILENT, Voice
from alexnet_deploy.trt_log import first_error, logger_of, recorded

if TYPE_CHECKING:
    from alexnet_deploy.engines.proof import Plan


@dataclass(frozen=True, kw_only=True)
class BuiltEngine:
    """A serialized engine and how it came about.

    Attributes:
        data: The engine's bytes.
        options: What was built, with backend and SMs in numbers.
        version: Of the builder.
        plan: What the engine says of itself.
        layers: Layers of the parsed network.
        seconds: Time to parse and build.
        timing_cache: TensorRT's, to be kept for the next build; None of TensorRT-RTX, which has none.
        cache_taken: Whether the timing cache that was given was of this TensorRT and GPU.
    """

    data: bytes
    options: EngineOptions
    version: str
    plan: Plan
    layers: int
    seconds: float
    timing_cache: bytes | None = None
    cache_taken: bool = False


def engine_from_onnx(
    graph: bytes,
    options: EngineOptions,
    *,
    timing_cache: bytes | None = None,
    log: Path | None = None,
    voice: Voice = SILENT,
) -> BuiltEngine:
    """Builds an engine and reads back what became of its layers.

    TensorRT-RTX builds ahead of time for `options.sms`, without a GPU; TensorRT builds for the GPU at hand.

    Args:
        graph: A serialized ONNX model, weights included, whose batch is dynamic.
        options: What to build.
        timing_cache: What an earlier build on this machine left; of TensorRT alone.
        log: Where the builder's log goes, whether it builds or fails.
        voice: Shows the builder's own progress.

    Raises:
        MissingDependencyError: The backend is not installed.
        InputError: The backend lacks an option, or an SM the precision.
        EngineError: The graph does not parse, or the builder failed; the message has the builder's first error.
        KeyboardInterrupt: The build was interrupted.
    """
    options = resolved_here(options)
    trt = tensorrt_module(options.backend)
    with recorded(logger_of(trt)) as lines:
        try:
            return _built(trt, graph, options, timing_cache, voice)
        except EngineError as exc:
            if log is not None and exc.remedy is None:
                exc.remedy = f"the builder's log is {log}"
            raise
        finally:
            if log is not None:
                write_bytes(log, ("\n".join(lines) + "\n").encode())


def _built(trt: Any, graph: bytes, options: EngineOptions, timing_cache: bytes | None, voice: Voice) -> BuiltEngine:
    started = time.perf_counter()
    logger = logger_of(trt)
    builder = trt.Builder(logger)
    flags = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    if options.plugin:
        graph, flags = _with_plugin(trt, graph, options, flags)
    network = network_from_onnx(trt, builder, graph, flags)
    config = config_from_options(trt, builder, network, options)
    taken = options.backend == "tensorrt" and use_timing_cache(config, timing_cache or b"")
    if timing_cache and not taken:
        voice.warn("the timing cache is not one of this TensorRT and GPU; it is left alone")
    with (
        stoppable(voice.warn, "interrupted: the builder stops at its next step") as stop,
        voice.track(f"build {options.precision.value}", STEPS) as track,
    ):
        monitor = monitor_of(trt, BuildProgress(track), stop)
        config.progress_monitor = monitor
        serialized = builder.build_serialized_network(network, config)
        if monitor.error is not None:
            raise monitor.error
        stop.obey()
    if serialized is None:
        raise EngineError(
            f"{options.backend} could not build the engine", got=first_error(logger.lines, "no error was logged")
        )
    data, seconds = bytes(serialized), time.perf_counter() - started
    return BuiltEngine(
        data=data,
        options=options,
        version=trt.__version__,
        plan=_plan(trt, network, data, options),
        layers=network.num_layers,
        seconds=seconds,
        timing_cache=bytes(config.get_timing_cache().serialize()) if options.backend == "tensorrt" else None,
        cache_taken=taken,
    )


def _plan(trt: Any, network: Any, data: bytes, options: EngineOptions) -> Plan:
    kinds = {trt.LayerType.CONVOLUTION: "conv", trt.LayerType.MATRIX_MULTIPLY: "linear"}
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    weighted = {layer.name: kinds[layer.type] for layer in layers if layer.type in kinds}
    if options.backend == "tensorrt-rtx":
        return read_plan(data, weighted)
    return plan_from_engine(trt, data, weighted, (options.sms or (0,))[0])


def _with_plugin(trt: Any, graph: bytes, options: EngineOptions, flags: int) -> tuple[bytes, int]:
    """Registers the LRN plugin, and takes the nodes' function bodies out: the parser prefers them to a plugin."""
    import onnx_ir as ir

    from alexnet_deploy.lrn import plugin_rtx, plugin_tensorrt
    from alexnet_deploy.lrn.node import plugin_nodes, without_bodies

    model = ir.from_proto(proto_from_bytes(graph, "the graph"))
    if not plugin_nodes(model):
        raise EngineError("the graph has no LRN node for the plugin", remedy="lower it with `export --lrn plugin`")
    sms = options.sms or ()
    if options.backend == "tensorrt-rtx":
        plugin_rtx.register(trt)
        plugin_rtx.build_for(sms)
    else:
        plugin_tensorrt.register(trt, sms[0])
        flags |= plugin_tensorrt.creation_flag(trt)
    # Not graph_bytes: without its bodies the model is not complete ONNX.
    return ir.to_proto(without_bodies(model)).SerializeToString(), flags
