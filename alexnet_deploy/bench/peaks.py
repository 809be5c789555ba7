"""What this machine can do at most: reading memory, and multiply-adds in each precision.

The figures are the best of several runs of well-known kernels, so that a row which reaches them has nothing left to
win; they are what the machine attains, not what its data sheet says.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from alexnet_deploy.bench.worker import Worker
from alexnet_deploy.machine import CPU_BF16_FLAGS, CPU_INT8_FLAGS, cpu_flags
from alexnet_deploy.optional import is_installed, require
from alexnet_deploy.specs import Precision

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Another number where the kernels below change.
PEAKS_VERSION = 3
_SIDE = 1536
# The best of at least so many runs that take at least so long: other work on the machine comes in spells.
_RUNS, _SECONDS = 8, 0.5
_READ_BYTES = 512 << 20
# Of a matrix that is read once, for one product with a vector: 256 MB.
_MATRIX_SIDE = 8192


@dataclass(frozen=True, kw_only=True)
class Peaks:
    """The most that a device attains.

    Attributes:
        device: `cpu`.
        threads: CPU threads it was measured with.
        read_bytes_per_second: Of what weights lie in: memory, or a last cache that holds 256 MB.
        macs_per_second: Multiply-adds by precision; a precision that the device has no kernels for is absent.
        kernels: Which kernel attained each.
    """

    device: str
    threads: int
    read_bytes_per_second: float
    macs_per_second: dict[str, float]
    kernels: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        return {
            "device": self.device,
            "threads": self.threads,
            "read_bytes_per_second": self.read_bytes_per_second,
            "macs_per_second": self.macs_per_second,
            "with": self.kernels,
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Peaks:
        """Reads what `to_json` gives."""
        return cls(
            device=str(values["device"]),
            threads=int(values["threads"]),
            read_bytes_per_second=float(values["read_bytes_per_second"]),
            macs_per_second={str(name): float(rate) for name, rate in values["macs_per_second"].items()},
            kernels={str(name): str(kernel) for name, kernel in values["with"].items()},
        )


def measured_peaks(threads: int) -> Peaks:
    """Measures in a process of its own, which takes a few seconds.

    Raises:
        SessionError: The process ended.
    """
    worker = Worker(_MakeMeter(threads), "the measurement of peaks")
    worker.start()
    try:
        peaks: Peaks = worker.ask("peaks")
    finally:
        worker.close()
    return peaks


@dataclass(frozen=True)
class _MakeMeter:
    threads: int

    def __call__(self) -> _Meter:
        return _Meter(self.threads)


# What a kernel is called, how much one run of it does, and the run.
_Kernel = tuple[str, float, Callable[[], object]]


class _Meter:
    """Runs the kernels."""

    def __init__(self, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        torch.manual_seed(0)
        self._threads = threads

    def peaks(self) -> Peaks:
        rates, kernels = dict[str, float](), dict[str, str]()
        for name, of in {"read": self._reads, **self._products()}.items():
            for kernel, amount, run in of():
                rate = amount / self._best_seconds(run)
                if rate > rates.get(name, 0.0):
                    rates[name], kernels[name] = rate, kernel
        read = rates.pop("read")
        return Peaks(
            device="cpu",
            threads=self._threads,
            read_bytes_per_second=read,
            macs_per_second=rates,
            kernels=kernels,
        )

    def _best_seconds(self, run: Callable[[], object]) -> float:
        run()
        times: list[float] = []
        while len(times) < _RUNS or sum(times) < _SECONDS:
            started = time.perf_counter()
            run()
            times.append(time.perf_counter() - started)
        return min(times)

    def _reads(self) -> Iterator[_Kernel]:
        import torch

        values = torch.ones(_READ_BYTES // 4)
        yield "torch.sum", _READ_BYTES, values.sum
        yield "torch.max", _READ_BYTES, values.max
        del values
        # As a fully connected layer reads its weights for one image.
        matrix, vector = torch.ones(_MATRIX_SIDE, _MATRIX_SIDE), torch.ones(_MATRIX_SIDE)
        read = 4.0 * _MATRIX_SIDE**2
        yield "torch.mv", read, lambda: torch.mv(matrix, vector)
        graph = _product_graph(vector.numpy()[None], matrix.numpy())
        for name, run in self._on_runtimes(graph, vector.numpy()[None]):
            yield f"{name} MatMul of one row", read, run

    def _products(self) -> dict[str, Callable[[], Iterator[_Kernel]]]:
        products = {Precision.FP32.value: self._fp32, Precision.INT8.value: self._int8}
        if cpu_flags() & CPU_BF16_FLAGS:
            products[Precision.BF16.value] = self._bf16
        return products

    def _product(self, kind: str) -> Iterator[_Kernel]:
        import torch

        factor = torch.randn(_SIDE, _SIDE).to(getattr(torch, kind))
        yield "torch.mm", float(_SIDE) ** 3, lambda: torch.mm(factor, factor)

    def _fp32(self) -> Iterator[_Kernel]:
        yield from self._product("float32")
        factor = np.random.default_rng(0).standard_normal((_SIDE, _SIDE)).astype(np.float32)
        for name, run in self._on_runtimes(_product_graph(factor, factor), factor):
            yield f"{name} MatMul", float(_SIDE) ** 3, run

    def _bf16(self) -> Iterator[_Kernel]:
        yield from self._product("bfloat16")
        if is_installed("openvino"):
            factor = np.random.default_rng(0).standard_normal((_SIDE, _SIDE)).astype(np.float32)
            run = self._on_openvino(_product_graph(factor, factor), factor, "bf16")
            yield "OpenVINO MatMul in bf16", float(_SIDE) ** 3, run

    def _int8(self) -> Iterator[_Kernel]:
        if cpu_flags() & CPU_INT8_FLAGS:
            # Elsewhere it is a plain loop: a minute and a half, and two hundred times as long as ONNX Runtime.
            import torch

            factor = torch.randint(-127, 128, (_SIDE, _SIDE), dtype=torch.int8)
            yield "torch._int_mm", float(_SIDE) ** 3, lambda: torch._int_mm(factor, factor)
        random = np.random.default_rng(0)
        # Without VNNI sums of two products are kept in 16 bits, which larger numbers would not fit into.
        left = random.integers(0, 128, (_SIDE, _SIDE)).astype(np.uint8)
        right = random.integers(-127, 128, (_SIDE, _SIDE)).astype(np.int8)
        graph = _integer_graph(left, right)
        yield "ONNX Runtime MatMulInteger", float(_SIDE) ** 3, self._on_onnx_runtime(graph, left)
        for name, run in self._on_runtimes(_quantized_graph(left, right), left):
            yield f"{name} quantized MatMul", float(_SIDE) ** 3, run

    def _on_runtimes(self, graph: bytes, left: NDArray[Any]) -> Iterator[tuple[str, Callable[[], object]]]:
        yield "ONNX Runtime", self._on_onnx_runtime(graph, left)
        if is_installed("openvino"):
            yield "OpenVINO", self._on_openvino(graph, left)

    def _on_onnx_runtime(self, graph: bytes, left: NDArray[Any]) -> Callable[[], object]:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        return lambda: session.run(None, {"left": left})

    def _on_openvino(self, graph: bytes, left: NDArray[Any], precision: str = "f32") -> Callable[[], object]:
        core: Any = require("openvino", "the measurement of peaks").Core()
        properties = {
            "INFERENCE_NUM_THREADS": self._threads,
            "INFERENCE_PRECISION_HINT": precision,
            "ENABLE_HYPER_THREADING": True,
        }
        request = core.compile_model(core.read_model(graph), "CPU", properties).create_infer_request()
        return lambda: request.infer([left], share_inputs=True, share_outputs=True)


def _product_graph(left: NDArray[Any], right: NDArray[Any]) -> bytes:
    """FP32, as an ONNX file: `right` is a constant."""
    return _graph([_node("MatMul", "left", "right")], {"right": right}, left, right)


def _integer_graph(left: NDArray[Any], right: NDArray[Any]) -> bytes:
    """uint8 times int8 to int32."""
    return _graph([_node("MatMulInteger", "left", "right")], {"right": right}, left, right, np.int32)


def _quantized_graph(left: NDArray[Any], right: NDArray[Any]) -> bytes:
    """The same as a quantized layer says it: dequantized factors, which runtimes multiply as integers."""
    nodes = [
        _node("DequantizeLinear", "left", "step", "zero", to="x"),
        _node("DequantizeLinear", "right", "step", "middle", to="w"),
        _node("MatMul", "x", "w"),
    ]
    constants = {
        "right": right,
        "step": np.float32(0.01),
        "zero": np.uint8(64),
        "middle": np.int8(0),
    }
    return _graph(nodes, constants, left, right)


def _node(kind: str, *inputs: str, to: str = "product") -> Any:
    import onnx

    return onnx.helper.make_node(kind, inputs, [to])


def _graph(
    nodes: list[Any], constants: dict[str, Any], left: NDArray[Any], right: NDArray[Any], result: type = np.float32
) -> bytes:
    import onnx

    helper = onnx.helper
    kinds = [helper.np_dtype_to_tensor_dtype(np.dtype(kind)) for kind in (left.dtype, result)]
    graph = helper.make_graph(
        nodes,
        "product",
        [helper.make_tensor_value_info("left", kinds[0], left.shape)],
        [helper.make_tensor_value_info("product", kinds[1], (left.shape[0], right.shape[1]))],
        [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())
