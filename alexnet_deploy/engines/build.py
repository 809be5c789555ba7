"""From ONNX to an engine, with TensorRT or TensorRT-RTX; precision lives in the graph, networks are strongly typed."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alexnet_deploy.engines.options import EngineOptions
from alexnet_deploy.errors import EngineError
from alexnet_deploy.machine import gpu_sm
from alexnet_deploy.optional import tensorrt_from_backend
from alexnet_deploy.progress import SILENT, Voice

_LOG_LEVELS = ("INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE")
# What TensorRT-RTX logs again and again on a machine without a driver; it builds all the same.
_NO_DRIVER = "cudaError 35"


@dataclass(frozen=True, kw_only=True)
class BuiltEngine:
    """A serialized plan and how it came about.

    Attributes:
        plan: The engine's bytes.
        backend: `tensorrt` or `tensorrt-rtx`.
        version: Of the builder.
        log: Every line the builder wrote.
        layers: Layers of the parsed network.
        seconds: Time to build.
    """

    plan: bytes
    backend: str
    version: str
    log: tuple[str, ...]
    layers: int
    seconds: float


def engine_from_onnx(graph: bytes, options: EngineOptions, *, voice: Voice = SILENT) -> BuiltEngine:
    """Builds an engine.

    TensorRT-RTX builds ahead of time for `options.sms`, without a GPU; TensorRT builds for the GPU at hand.

    Args:
        graph: A serialized ONNX model whose batch is dynamic.
        options: Backend, SMs and batch profile.
        voice: Shows the builder's own progress.

    Raises:
        MissingDependencyError: The backend is not installed.
        EngineError: The graph does not parse, or the builder failed; the message has the builder's first error.
        KeyboardInterrupt: The build was interrupted.
    """
    backend, trt = tensorrt_from_backend(options.backend)
    logger = _logger(trt)
    logger.lines = []
    started = time.perf_counter()
    builder = trt.Builder(logger)
    flags = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    if options.plugin:
        graph, flags = _with_plugin(backend, trt, graph, options, flags)
    network = builder.create_network(flags)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(graph) or network.num_layers == 0:
        errors = [str(parser.get_error(index)) for index in range(parser.num_errors)]
        raise EngineError(
            f"{backend} cannot read the graph", got=errors[0] if errors else _first_error(logger, "no layers")
        )
    config = builder.create_builder_config()
    if backend == "tensorrt-rtx":
        config.num_compute_capabilities = len(options.sms)
        for index, sm in enumerate(options.sms):
            config.set_compute_capability(getattr(trt.ComputeCapability, f"SM{sm}"), index)
    _add_profile(builder, config, network, options)
    with voice.track(f"build {options.precision.value}", 0) as track:
        monitor = _progress_monitor(trt, track)
        config.progress_monitor = monitor
        plan = builder.build_serialized_network(network, config)
    if monitor.interrupted:
        raise KeyboardInterrupt
    if plan is None:
        raise EngineError(f"{backend} could not build the engine", got=_first_error(logger, "no error was logged"))
    return BuiltEngine(
        plan=bytes(plan),
        backend=backend,
        version=trt.__version__,
        log=tuple(logger.lines),
        layers=network.num_layers,
        seconds=time.perf_counter() - started,
    )


def _with_plugin(backend: str, trt: Any, graph: bytes, options: EngineOptions, flags: int) -> tuple[bytes, int]:
    """Registers the LRN plugin, and takes the nodes' function bodies out: the parser prefers them to a plugin."""
    import onnx
    import onnx_ir as ir

    from alexnet_deploy.lrn import plugin_rtx, plugin_tensorrt
    from alexnet_deploy.lrn.node import plugin_nodes, without_bodies

    model = ir.from_proto(onnx.load_from_string(graph))
    if not plugin_nodes(model):
        raise EngineError("the graph has no LRN node for the plugin", remedy="lower it with `export --lrn plugin`")
    if backend == "tensorrt-rtx":
        plugin_rtx.register(trt)
        plugin_rtx.build_for(options.sms)
    else:
        sm = gpu_sm()
        if sm is None:
            raise EngineError("TensorRT builds for the GPU at hand", got="no CUDA device")
        plugin_tensorrt.register(trt, sm)
        flags |= plugin_tensorrt.creation_flag(trt)
    # Not graph_bytes: without its bodies the model is not complete ONNX.
    return ir.to_proto(without_bodies(model)).SerializeToString(), flags


def write_log(path: Path, log: tuple[str, ...]) -> None:
    """Writes the builder's log beside the engine, without the lines that only say there is no driver."""
    from alexnet_deploy.artifacts import write_bytes

    kept = [line for line in log if _NO_DRIVER not in line]
    write_bytes(path, ("\n".join(kept) + "\n").encode())


def _add_profile(builder: Any, config: Any, network: Any, options: EngineOptions) -> None:
    image = network.get_input(0)
    sides = tuple(image.shape)[1:]
    if any(side < 0 for side in sides):
        raise EngineError("the graph's image size is dynamic", got=tuple(image.shape), expected="(-1, 3, S, S)")
    if image.shape[0] != -1:
        return
    profile = builder.create_optimization_profile()
    batches = (options.min_batch, options.opt_batch, options.max_batch)
    profile.set_shape(image.name, *[(batch, *sides) for batch in batches])
    config.add_optimization_profile(profile)


def _first_error(logger: Any, otherwise: str) -> str:
    errors = [line for line in logger.lines if "ERROR" in line.split("]")[0] and _NO_DRIVER not in line]
    return errors[0] if errors else otherwise


_LOGGERS: dict[str, Any] = {}


def _logger(trt: Any) -> Any:
    """One logger a process and backend: TensorRT keeps the first it is given and warns about others."""
    name = trt.__name__
    if name not in _LOGGERS:

        class Logger(trt.ILogger):  # type: ignore[misc]
            def __init__(self) -> None:
                trt.ILogger.__init__(self)
                self.lines: list[str] = []

            def log(self, severity: Any, message: str) -> None:
                level = int(severity)
                if level <= int(trt.ILogger.Severity.INFO):
                    self.lines.append(f"[{_LOG_LEVELS[level]}] {message}")

        _LOGGERS[name] = Logger()
    return _LOGGERS[name]


def _progress_monitor(trt: Any, track: Any) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        """Advances the bar; a KeyboardInterrupt inside a callback cancels the build."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.interrupted = False

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            track.advance(0, phase_name)

        def step_complete(self, phase_name: str, step: int) -> bool:
            try:
                track.advance(1, phase_name)
            except KeyboardInterrupt:
                self.interrupted = True
            return not self.interrupted

        def phase_finish(self, phase_name: str) -> None:
            pass

    return Monitor()
