"""An engine opened in TensorRT or TensorRT-RTX: what it takes and gives, and its execution contexts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from alexnet_deploy.errors import EngineError, InputError, SessionError
from alexnet_deploy.files import sha256_of
from alexnet_deploy.optional import tensorrt_module
from alexnet_deploy.runtimes.admission import Admitted
from alexnet_deploy.trt_log import first_error, logger_of


@dataclass(frozen=True, kw_only=True)
class Port:
    """The one input or output of an engine.

    Attributes:
        row: Shape of one image, or of one image's logits.
        dtype: NumPy's.
    """

    name: str
    row: tuple[int, ...]
    dtype: np.dtype[Any]


@dataclass(frozen=True, kw_only=True)
class BatchRange:
    """Batch sizes of one optimisation profile."""

    index: int
    least: int
    most: int


class OpenedEngine:
    """Deserializes an engine; the device is current.

    Args:
        admitted: May be opened.
        cuda_graphs: Of TensorRT-RTX: the runtime captures the network itself.

    Raises:
        EngineError: TensorRT refuses the engine, in its words.
        SessionError: It has not one input of images and one output.
    """

    def __init__(self, admitted: Admitted, *, cuda_graphs: bool = False) -> None:
        self.trt = trt = tensorrt_module(admitted.backend)
        self._logger, self._cuda_graphs, self._backend = logger_of(trt), cuda_graphs, admitted.backend
        if admitted.plugins and admitted.backend == "tensorrt-rtx":
            from alexnet_deploy.lrn import plugin_rtx

            plugin_rtx.register(trt)
        data = admitted.data
        self.notes: list[str] = []
        self._runtime: Any = trt.Runtime(self._logger)
        if admitted.backend == "tensorrt-rtx":
            self.notes += _verdict(trt, self._runtime, data, admitted)
        # A version-compatible engine holds the machine code of a runtime; its passport said so.
        self._runtime.engine_host_code_allowed = bool(admitted.options.get("version_compatible"))
        self._engine: Any = self._runtime.deserialize_cuda_engine(data)
        if self._engine is None:
            raise EngineError(
                f"{admitted.backend} does not open {admitted.path.name}",
                got=first_error(self._logger.lines, "no error was logged"),
                remedy=admitted.remedy,
            )
        if admitted.options.get("strip"):
            _put_weights_back(trt, self._engine, self._logger, admitted)
        self.input, self.output = self._port("INPUT"), self._port("OUTPUT")
        self.ranges = self._ranges()

    def range_of(self, batch: int) -> BatchRange:
        """The narrowest profile that takes a batch.

        Raises:
            InputError: There is none.
        """
        fitting = [found for found in self.ranges if found.least <= batch <= found.most]
        if not fitting:
            raise InputError(
                "the engine takes no batch of that size",
                got=batch,
                expected=" or ".join(f"{found.least} to {found.most}" for found in self.ranges),
                remedy=f"build it with a --profile that takes {batch}",
            )
        return min(fitting, key=lambda found: found.most - found.least)

    @property
    def largest_batch(self) -> int:
        """Up to which every batch from 1 on has a profile; 0 where 1 has none."""
        most = 0
        while any(found.least <= most + 1 <= found.most for found in self.ranges):
            most = max(found.most for found in self.ranges if found.least <= most + 1)
        return most

    def context(self, profile: BatchRange, stream: int) -> Any:
        """A new execution context for a profile.

        Raises:
            SessionError: TensorRT does not make it.
        """
        if self._backend == "tensorrt-rtx":
            trt, config = self.trt, self._engine.create_runtime_config()
            # By default the first runs of a shape take a slower kernel while a better one is compiled behind them.
            config.dynamic_shapes_kernel_specialization_strategy = trt.DynamicShapesKernelSpecializationStrategy.EAGER
            if self._cuda_graphs:
                config.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
            context = self._engine.create_execution_context(config)
        else:
            context = self._engine.create_execution_context()
        if context is None:
            raise self.failure("no execution context could be made")
        if not context.set_optimization_profile_async(profile.index, stream):
            raise self.failure(f"the engine does not take its optimisation profile {profile.index}")
        return context

    def set_batch(self, context: Any, batch: int, *, input_address: int, output_address: int) -> None:
        """Tells a context its shapes and addresses.

        Raises:
            SessionError: TensorRT refuses them, or the output is not one row an image.
        """
        shape = (batch, *self.input.row)
        if not context.set_input_shape(self.input.name, shape):
            raise self.failure(f"the engine does not take the shape {shape}")
        for port, address in ((self.input, input_address), (self.output, output_address)):
            if not context.set_tensor_address(port.name, address):
                raise self.failure(f"the engine does not take the address of {port.name}")
        given = tuple(context.get_tensor_shape(self.output.name))
        if given != (batch, *self.output.row):
            raise SessionError("the engine's output is not one row an image", got=given)

    def failure(self, problem: str) -> SessionError:
        """An error with TensorRT's words."""
        return SessionError(problem, got=first_error(self._logger.lines, "no error was logged"))

    def close(self) -> None:
        """Lets go of the engine, then of its runtime; its contexts are gone by now."""
        self._engine = None
        self._runtime = None

    def _port(self, mode: str) -> Port:
        engine, trt = self._engine, self.trt
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        found = [name for name in names if engine.get_tensor_mode(name) == getattr(trt.TensorIOMode, mode)]
        row = tuple(int(side) for side in engine.get_tensor_shape(found[0]))[1:] if len(found) == 1 else ()
        if not row or min(row) < 1:
            raise SessionError(
                f"the engine has not one {mode.lower()} of fixed size an image",
                got=", ".join(f"{name} {tuple(engine.get_tensor_shape(name))}" for name in found) or "none",
            )
        try:
            dtype = np.dtype(trt.nptype(engine.get_tensor_dtype(found[0])))
        except TypeError as exc:
            raise SessionError(f"the engine's {mode.lower()} is of a type that NumPy lacks", got=exc) from exc
        return Port(name=found[0], row=row, dtype=dtype)

    def _ranges(self) -> tuple[BatchRange, ...]:
        engine, name = self._engine, self.input.name
        fixed = int(engine.get_tensor_shape(name)[0])
        if fixed != -1:
            return (BatchRange(index=0, least=fixed, most=fixed),)
        found = []
        for index in range(engine.num_optimization_profiles):
            least, _, most = engine.get_tensor_profile_shape(name, index)
            found.append(BatchRange(index=index, least=int(least[0]), most=int(most[0])))
        return tuple(found)


def _verdict(trt: Any, runtime: Any, data: bytes, admitted: Admitted) -> list[str]:
    """TensorRT-RTX's own, which names what is wrong (deserializing only says no); what is worth telling otherwise."""
    validity, diagnostics = runtime.get_engine_validity(data)
    kinds = trt.EngineInvalidityDiagnostics
    names = [name for name, kind in kinds.__members__.items() if int(diagnostics) & int(kind)]
    if validity == trt.EngineValidity.INVALID:
        raise EngineError(
            f"TensorRT-RTX does not take {admitted.path.name} here",
            got=", ".join(names).lower().replace("_", " ") or "no reason",
            remedy=admitted.remedy,
        )
    if validity == trt.EngineValidity.SUBOPTIMAL:
        return ["TensorRT-RTX calls the engine suboptimal on this GPU: build it for its SM"]
    return []


def _put_weights_back(trt: Any, engine: Any, logger: Any, admitted: Admitted) -> None:
    """Fills an engine that was built without weights from the graph it was made of. Built, not run."""
    name, digest = admitted.parent or ("its graph", "")
    graph = admitted.path.with_name(name)
    if not graph.is_file() or sha256_of(graph) != digest:
        raise EngineError(
            f"{admitted.path.name} was built without weights",
            got=f"{name} beside it is another file" if graph.is_file() else f"no {name} beside it",
            expected=f"the graph it was made of, sha256 {digest}",
            remedy="copy the graph along with the engine, or build it without --strip",
        )
    refitter = trt.Refitter(engine, logger)
    parser = trt.OnnxParserRefitter(refitter, logger)
    if not parser.refit_from_bytes(graph.read_bytes()):
        said = (
            str(parser.get_error(0).desc()) if parser.num_errors else first_error(logger.lines, "no error was logged")
        )
        raise EngineError("the engine does not take its weights", got=said)
    if not refitter.refit_cuda_engine():
        missing = ", ".join(refitter.get_missing_weights()[:8])
        raise EngineError("the engine did not get all of its weights", got=missing or "no error was logged")
