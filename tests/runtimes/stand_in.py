"""Stand-ins for pycuda, the driver's graph calls and TensorRT's runtime, in host memory.

They are asynchronous as the real ones are: what is put on a stream happens when the stream is synchronized, so that a
missing wait, memory that is freed or written too early, or a wrong order gives a wrong result or an error here too. An
execution context computes with ONNX Runtime. What TensorRT and CUDA forbid is an error.
"""

from __future__ import annotations

import enum
import itertools
import json
import sys
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

COPY_MS, COMPUTE_MS, GRAPH_MS = 1.0, 5.0, 3.0
MAGIC = b"vtrt stand-in"
Work = Callable[[], None]


class LogicError(Exception):
    """pycuda's; its errors have no base class but Exception."""


class MemoryError_(Exception):
    """pycuda's error where the device has no memory left."""


class Memory:
    """A block on the device or page-locked on the host."""

    def __init__(self, cuda: HostCuda, size: int, kind: str) -> None:
        cuda.require_current(f"allocate {kind} memory")
        if cuda.capturing:
            raise LogicError("operation not permitted when stream is capturing")
        if cuda.bytes_left is not None and size > cuda.bytes_left:
            raise MemoryError_("cuMemAlloc failed: out of memory")
        self.cuda, self.kind, self.freed = cuda, kind, False
        # Not zeros: what was never copied or computed must not look like a result.
        self.bytes = np.full(size, 0xA5, np.uint8)
        self.address = next(cuda.addresses)
        cuda.memory[self.address] = self
        cuda.allocations += 1

    def __int__(self) -> int:
        return self.address

    def free(self) -> None:
        self.cuda.require_current("free memory")
        if self.freed:
            raise LogicError("free failed: invalid resource handle")
        if self.cuda.pending():
            raise LogicError("memory was freed with work under way")
        self.freed = True
        self.bytes.fill(0x5A)
        del self.cuda.memory[self.address]

    @property
    def __array_interface__(self) -> dict[str, Any]:
        return self.bytes.__array_interface__


class HostStream:
    def __init__(self, cuda: HostCuda) -> None:
        cuda.require_current("make a stream")
        self.cuda, self.handle = cuda, next(cuda.addresses)
        self.queue: list[Work] = []
        self.capture: list[Work] | None = None
        cuda.streams[self.handle] = self

    def put(self, work: Work) -> None:
        self.cuda.require_current("use a stream")
        (self.queue if self.capture is None else self.capture).append(work)

    def synchronize(self) -> None:
        self.cuda.require_current("synchronize")
        if self.capture is not None:
            raise LogicError("cuStreamSynchronize failed: operation not permitted when stream is capturing")
        queue, self.queue = self.queue, []
        for work in queue:
            work()


class HostEvent:
    def __init__(self, cuda: HostCuda) -> None:
        cuda.require_current("make an event")
        self.cuda = cuda
        self.at: float | None = None

    def record(self, stream: HostStream) -> HostEvent:
        self.at = None
        stream.put(self._happen)
        return self

    def _happen(self) -> None:
        self.at = self.cuda.now_ms

    def time_till(self, other: HostEvent) -> float:
        if self.at is None or other.at is None:
            raise LogicError("cuEventElapsedTime failed: device not ready")
        return other.at - self.at


class HostContext:
    """The primary context; pycuda keeps a stack of its own."""

    def __init__(self, cuda: HostCuda) -> None:
        self.cuda, self.detached = cuda, False
        cuda.retained += 1

    def push(self) -> None:
        if self.detached:
            raise LogicError("push failed: invalid device context")
        self.cuda.stack.append(self)
        self.cuda.driver_stack.append(self)

    def pop(self) -> None:
        if not self.cuda.stack:
            raise LogicError("pop failed: the context stack is empty")
        self.cuda.stack.pop()
        self.cuda.driver_stack.pop()

    def detach(self) -> None:
        if self.detached:
            raise LogicError("detach failed: cannot detach from invalid context")
        self.detached = True
        self.cuda.retained -= 1
        # The driver's own stack keeps it.
        if self in self.cuda.stack:
            self.cuda.stack.remove(self)


class HostCuda(ModuleType):
    """pycuda.driver."""

    def __init__(self) -> None:
        super().__init__("pycuda.driver")
        self.addresses = itertools.count(0x1000, 0x1000)
        self.memory: dict[int, Memory] = {}
        self.streams: dict[int, HostStream] = {}
        self.stack: list[HostContext] = []
        self.driver_stack: list[HostContext] = []
        self.retained, self.allocations, self.now_ms = 0, 0, 0.0
        self.bytes_left: int | None = None
        self.graphs: dict[int, list[Work]] = {}
        self.trt_objects: list[str] = []
        self.refused: str | None = None
        # After a kernel failed, every further call does.
        self.broken = False

    @property
    def capturing(self) -> bool:
        return any(stream.capture is not None for stream in self.streams.values())

    def pending(self) -> bool:
        return any(stream.queue for stream in self.streams.values())

    def require_current(self, action: str) -> None:
        if self.broken:
            raise LogicError(f"cannot {action}: unspecified launch failure")
        if not self.stack:
            raise LogicError(f"cannot {action}: no currently active context?")

    def init(self) -> None: ...

    def Device(self, index: int) -> Any:
        assert index == 0
        return SimpleNamespace(retain_primary_context=lambda: HostContext(self))

    def Stream(self) -> HostStream:
        return HostStream(self)

    def Event(self) -> HostEvent:
        return HostEvent(self)

    def mem_alloc(self, size: int) -> Memory:
        assert type(size) is int
        return Memory(self, size, "device")

    def pagelocked_empty(self, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        assert all(type(side) is int for side in shape)
        memory = Memory(self, int(np.prod(shape)) * np.dtype(dtype).itemsize, "page-locked")
        flat = np.ndarray(shape, dtype, buffer=memory.bytes)
        held = SimpleNamespace(__array_interface__=flat.__array_interface__, free=memory.free, kept=flat)
        array: NDArray[Any] = np.asarray(held)
        return array

    def memcpy_htod_async(self, dest: Memory, src: NDArray[Any], stream: HostStream) -> None:
        assert src.flags.c_contiguous and self.is_page_locked(src)

        def copy() -> None:
            raw = np.frombuffer(src.tobytes(), np.uint8)
            self.at(int(dest))[: len(raw)] = raw
            self.now_ms += COPY_MS

        stream.put(copy)

    def memcpy_dtoh_async(self, dest: NDArray[Any], src: Memory, stream: HostStream) -> None:
        assert dest.flags.c_contiguous and self.is_page_locked(dest)

        def copy() -> None:
            dest[...] = np.frombuffer(self.at(int(src))[: dest.nbytes].tobytes(), dest.dtype).reshape(dest.shape)
            self.now_ms += COPY_MS

        stream.put(copy)

    def is_page_locked(self, array: NDArray[Any]) -> bool:
        start = array.__array_interface__["data"][0]
        blocks = [m.bytes for m in self.memory.values() if m.kind == "page-locked"]
        return any(
            block.ctypes.data <= start and start + array.nbytes <= block.ctypes.data + block.nbytes for block in blocks
        )

    def at(self, address: int) -> NDArray[np.uint8]:
        """The device memory at an address; an error where there is none any more."""
        if address not in self.memory:
            raise LogicError("an illegal memory access was encountered")
        return self.memory[address].bytes


class Status(enum.IntEnum):
    CUDA_SUCCESS = 0
    CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED = 900


def graph_driver(cuda: HostCuda) -> ModuleType:
    """cuda.bindings.driver, as far as graphs go."""
    module: Any = ModuleType("cuda.bindings.driver")
    ok = Status.CUDA_SUCCESS

    def answer(function: str, *values: Any) -> tuple[Any, ...]:
        if cuda.refused == function:
            return (Status.CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, *(None for _ in values))
        return (ok, *values)

    def cuStreamBeginCapture(handle: int, mode: Any) -> tuple[Any, ...]:
        found = answer("cuStreamBeginCapture")
        if found[0] == ok:
            assert not cuda.streams[handle].queue, "captured with work under way"
            cuda.streams[handle].capture = []
        return found

    def cuStreamEndCapture(handle: int) -> tuple[Any, ...]:
        stream, found = cuda.streams[handle], answer("cuStreamEndCapture", next(cuda.addresses))
        assert stream.capture is not None
        if found[0] == ok:
            cuda.graphs[found[1]] = stream.capture
        stream.capture = None
        return found

    def cuGraphInstantiate(graph: int, flags: int) -> tuple[Any, ...]:
        found = answer("cuGraphInstantiate", next(cuda.addresses))
        if found[0] == ok:
            cuda.graphs[found[1]] = list(cuda.graphs[graph])
        return found

    def cuGraphLaunch(executable: int, handle: int) -> tuple[Any, ...]:
        def replay() -> None:
            before = cuda.now_ms
            for work in cuda.graphs[executable]:
                work()
            cuda.now_ms = before + GRAPH_MS

        cuda.streams[handle].put(replay)
        return answer("cuGraphLaunch")

    def destroy(graph: int) -> tuple[Any, ...]:
        del cuda.graphs[graph]
        return (ok,)

    module.cuStreamBeginCapture, module.cuStreamEndCapture = cuStreamBeginCapture, cuStreamEndCapture
    module.cuGraphInstantiate, module.cuGraphLaunch = cuGraphInstantiate, cuGraphLaunch
    module.cuGraphDestroy = module.cuGraphExecDestroy = destroy
    module.CUstreamCaptureMode = SimpleNamespace(CU_STREAM_CAPTURE_MODE_THREAD_LOCAL=1)
    made: ModuleType = module
    return made


@dataclass
class Behaviour:
    """What the next engine does wrong; nothing by default."""

    refuses: set[str] = field(default_factory=set)
    validity: str = "VALID"
    warns: str | None = None
    diagnostics: int = 0
    output_rows: int = 0
    calls: list[str] = field(default_factory=list)
    strategies: list[Any] = field(default_factory=list)


def engine_bytes(graph: bytes, profiles: tuple[tuple[int, int, int], ...] = ((1, 1, 16),)) -> bytes:
    """What the stand-in deserializes."""
    return MAGIC + json.dumps(profiles).encode() + b"\n" + graph


class Engine:
    """ICudaEngine over an ONNX graph."""

    def __init__(self, trt: Any, data: bytes) -> None:
        import onnxruntime

        header, _, graph = data.removeprefix(MAGIC).partition(b"\n")
        self.trt, self.profiles = trt, json.loads(header)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        self.session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        tensors = [*self.session.get_inputs(), *self.session.get_outputs()]
        self.tensors = {tensor.name: tensor for tensor in tensors}
        self.inputs = [tensor.name for tensor in self.session.get_inputs()]
        self.num_io_tensors, self.num_optimization_profiles = len(tensors), len(self.profiles)
        self.contexts = 0
        trt.cuda.trt_objects.append("engine")

    def __del__(self) -> None:
        assert not self.contexts, "an engine was freed before its context"
        self.trt.gone("engine")

    def get_tensor_name(self, index: int) -> str:
        return str(list(self.tensors)[index])

    def get_tensor_mode(self, name: str) -> Any:
        return self.trt.TensorIOMode.INPUT if name in self.inputs else self.trt.TensorIOMode.OUTPUT

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(side if isinstance(side, int) else -1 for side in self.tensors[name].shape)

    def get_tensor_dtype(self, name: str) -> Any:
        return {"tensor(float)": np.float32, "tensor(float16)": np.float16}[self.tensors[name].type]

    def get_tensor_profile_shape(self, name: str, index: int) -> list[tuple[int, ...]]:
        return [(batch, *self.get_tensor_shape(name)[1:]) for batch in self.profiles[index]]

    def create_runtime_config(self) -> Any:
        return SimpleNamespace(cuda_graph_strategy=None, dynamic_shapes_kernel_specialization_strategy=None)

    def create_execution_context(self, config: Any = None) -> Any:
        self.trt.behaviour.strategies.append(config)
        return self.trt.answer("create_execution_context", ExecutionContext(self), None)


class ExecutionContext:
    """IExecutionContext that computes with ONNX Runtime when its stream gets there."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.trt = engine, engine.trt
        self.profile: list[int] | None = None
        self.shape: tuple[int, ...] | None = None
        self.addresses: dict[str, int] = {}
        engine.contexts += 1
        self.trt.cuda.trt_objects.append("context")

    def __del__(self) -> None:
        self.engine.contexts -= 1
        self.trt.gone("context")

    def set_optimization_profile_async(self, index: int, stream: int) -> bool:
        self.profile = self.engine.profiles[index]
        return bool(self.trt.answer("set_optimization_profile_async", True, False))

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert name in self.engine.inputs and self.profile is not None
        self.shape = shape
        inside = self.profile[0] <= shape[0] <= self.profile[2]
        return bool(self.trt.answer("set_input_shape", inside, False))

    def set_tensor_address(self, name: str, address: int) -> bool:
        assert name in self.engine.tensors
        self.trt.cuda.at(address)
        self.addresses[name] = address
        return bool(self.trt.answer("set_tensor_address", True, False))

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        assert self.shape is not None
        return (self.shape[0] + self.trt.behaviour.output_rows, *self.engine.get_tensor_shape(name)[1:])

    def execute_async_v3(self, stream: int) -> bool:
        if not self.trt.answer("execute_async_v3", True, False):
            return False
        shape, addresses = self.shape, dict(self.addresses)
        assert shape is not None and len(addresses) == len(self.engine.tensors)
        self.trt.cuda.streams[stream].put(lambda: self._compute(shape, addresses))
        return True

    def _compute(self, shape: tuple[int, ...], addresses: dict[str, int]) -> None:
        cuda, engine = self.trt.cuda, self.engine
        feeds = {}
        for name in engine.inputs:
            dtype = np.dtype(engine.get_tensor_dtype(name))
            size = int(np.prod(shape)) * dtype.itemsize
            feeds[name] = np.frombuffer(cuda.at(addresses[name])[:size].tobytes(), dtype).reshape(shape)
        for output, value in zip(engine.session.get_outputs(), engine.session.run(None, feeds), strict=True):
            raw = np.frombuffer(value.tobytes(), np.uint8)
            cuda.at(addresses[output.name])[: len(raw)] = raw
        cuda.now_ms += COMPUTE_MS


TensorIOMode = enum.Enum("TensorIOMode", ["INPUT", "OUTPUT"])
EngineValidity = enum.Enum("EngineValidity", ["VALID", "SUBOPTIMAL", "INVALID"])
EngineInvalidityDiagnostics = enum.IntEnum(
    "EngineInvalidityDiagnostics", {"VERSION_MISMATCH": 1, "UNSUPPORTED_CC": 2, "OLD_CUDA_DRIVER": 4}
)
SpecializationStrategy = enum.Enum("SpecializationStrategy", ["LAZY", "EAGER", "NONE"])
CudaGraphStrategy = enum.Enum("CudaGraphStrategy", ["DISABLED", "WHOLE_GRAPH_CAPTURE"])
Severity = enum.IntEnum("Severity", ["INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE"], start=0)


class HostTensorRt(ModuleType):
    """tensorrt or tensorrt_rtx, as far as running goes."""

    __version__ = "10.16.1"

    def __init__(self, name: str, cuda: HostCuda) -> None:
        super().__init__(name)
        self.cuda, self.behaviour = cuda, Behaviour()
        self.nptype = lambda dtype: dtype
        self.Builder = object
        self.TensorIOMode, self.EngineValidity = TensorIOMode, EngineValidity
        self.EngineInvalidityDiagnostics = EngineInvalidityDiagnostics
        self.DynamicShapesKernelSpecializationStrategy = SpecializationStrategy
        self.CudaGraphStrategy = CudaGraphStrategy
        module = self

        ILogger = type("ILogger", (), {"Severity": Severity})

        class Runtime:
            def __init__(self, logger: Any) -> None:
                self.logger, self.engine_host_code_allowed = logger, False
                self.engine: Any = None
                module.cuda.require_current("make a runtime")
                module.cuda.trt_objects.append("runtime")

            def __del__(self) -> None:
                held = self.engine() if self.engine is not None else None
                assert held is None, "a runtime was freed before its engine"
                module.gone("runtime")

            def get_engine_validity(self, data: bytes) -> tuple[Any, int]:
                return module.EngineValidity[module.behaviour.validity], module.behaviour.diagnostics

            def deserialize_cuda_engine(self, data: bytes) -> Any:
                module.behaviour.calls.append(f"host code {self.engine_host_code_allowed}")
                if not data.startswith(MAGIC):
                    return None
                made = module.answer("deserialize_cuda_engine", Engine(module, data), None)
                self.engine = None if made is None else weakref.ref(made)
                return made

        self.ILogger, self.Runtime = ILogger, Runtime

    def answer(self, call: str, good: Any, bad: Any) -> Any:
        """What a call gives, with an error in the log where it was told to fail."""
        from alexnet_deploy.trt_log import logger_of

        self.behaviour.calls.append(call)
        if call == "deserialize_cuda_engine" and self.behaviour.warns:
            logger_of(self).log(Severity.WARNING, self.behaviour.warns)
        if call not in self.behaviour.refuses:
            return good
        logger_of(self).log(Severity.ERROR, f"{call} was told to fail")
        return bad

    def gone(self, what: str) -> None:
        """An object is freed: TensorRT wants its CUDA context current."""
        assert self.cuda.stack, f"{what} freed without a context"
        self.cuda.trt_objects.remove(what)


def install(patch: pytest.MonkeyPatch, runtime: str, *, sm: int = 89, driver: str = "13.0") -> HostTensorRt:
    """Puts the stand-ins in place of pycuda, cuda-bindings and the runtime, and a GPU into the machine."""
    from alexnet_deploy import machine, optional, trt_log
    from alexnet_deploy.runtimes import admission
    from alexnet_deploy.runtimes import cuda as cuda_module

    cuda = HostCuda()
    trt = HostTensorRt(runtime.replace("-", "_"), cuda)
    packages = {"pycuda": ModuleType("pycuda"), "pycuda.driver": cuda, trt.__name__: trt}
    bindings: Any = ModuleType("cuda.bindings")
    bindings.driver = graph_driver(cuda)
    packages |= {"cuda.bindings": bindings, "cuda.bindings.driver": bindings.driver}
    for name, module in packages.items():
        patch.setitem(sys.modules, name, module)
    patch.setattr(trt_log, "_LOGGERS", {})
    for module, name, value in (
        (machine, "count_gpus", lambda: 1),
        (machine, "gpu_sm", lambda: sm),
        (admission, "count_gpus", lambda: 1),
        (admission, "gpu_sm", lambda: sm),
        (admission, "cuda_driver_version", lambda: driver),
        (admission, "gpu_name", lambda: "a card"),
        (cuda_module, "pop_cuda_context", cuda.driver_stack.pop),
        (admission, "tensorrt_version", lambda _backend: trt.__version__),
        (admission, "is_installed", lambda _module: True),
        (optional, "is_installed", lambda _module: True),
    ):
        patch.setattr(module, name, value)
    return trt
