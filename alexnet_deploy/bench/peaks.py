"""What this machine can do at most: reading memory, and multiply-adds in each precision.

The figures are the best of several runs of well-known kernels, so that a row which reaches them has nothing left to
win; they are what the machine attains, not what its data sheet says.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from alexnet_deploy.bench.worker import Worker
from alexnet_deploy.machine import CPU_BF16_FLAGS, CPU_INT8_FLAGS, cpu_flags
from alexnet_deploy.specs import Precision

# Another number where the kernels below change.
PEAKS_VERSION = 1
_SIDE, _RUNS = 1536, 8
_READ_BYTES = 512 << 20


@dataclass(frozen=True, kw_only=True)
class Peaks:
    """The most that a device attains.

    Attributes:
        device: `cpu`.
        threads: CPU threads it was measured with.
        read_bytes_per_second: Of memory that no cache holds.
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
        times = []
        for _ in range(_RUNS):
            started = time.perf_counter()
            run()
            times.append(time.perf_counter() - started)
        return min(times)

    def _reads(self) -> Iterator[_Kernel]:
        import torch

        values = torch.ones(_READ_BYTES // 4)
        yield "torch.sum", _READ_BYTES, values.sum
        yield "torch.max", _READ_BYTES, values.max

    def _products(self) -> dict[str, Callable[[], Iterator[_Kernel]]]:
        products = {Precision.FP32.value: self._fp32, Precision.INT8.value: self._int8}
        if cpu_flags() & CPU_BF16_FLAGS:
            products[Precision.BF16.value] = lambda: self._product("bfloat16")
        return products

    def _product(self, kind: str) -> Iterator[_Kernel]:
        import torch

        factor = torch.randn(_SIDE, _SIDE).to(getattr(torch, kind))
        yield "torch.mm", float(_SIDE) ** 3, lambda: torch.mm(factor, factor)

    def _fp32(self) -> Iterator[_Kernel]:
        yield from self._product("float32")
        factor = np.random.default_rng(0).standard_normal((_SIDE, _SIDE)).astype(np.float32)
        yield "ONNX Runtime MatMul", float(_SIDE) ** 3, self._onnx_product("MatMul", factor, factor)

    def _int8(self) -> Iterator[_Kernel]:
        if cpu_flags() & CPU_INT8_FLAGS:
            # Elsewhere it is a plain loop: a minute and a half, and two hundred times as long as ONNX Runtime.
            import torch

            factor = torch.randint(-127, 128, (_SIDE, _SIDE), dtype=torch.int8)
            yield "torch._int_mm", float(_SIDE) ** 3, lambda: torch._int_mm(factor, factor)
        random = np.random.default_rng(0)
        left = random.integers(0, 256, (_SIDE, _SIDE)).astype(np.uint8)
        right = random.integers(-127, 128, (_SIDE, _SIDE)).astype(np.int8)
        yield "ONNX Runtime MatMulInteger", float(_SIDE) ** 3, self._onnx_product("MatMulInteger", left, right)

    def _onnx_product(self, op: str, left: Any, right: Any) -> Callable[[], object]:
        import onnx
        import onnxruntime

        helper = onnx.helper
        kinds = [helper.np_dtype_to_tensor_dtype(factor.dtype) for factor in (left, right)]
        result = onnx.TensorProto.INT32 if op == "MatMulInteger" else kinds[0]
        graph = helper.make_graph(
            [helper.make_node(op, ["left", "right"], ["product"])],
            "product",
            [helper.make_tensor_value_info("left", kinds[0], left.shape)],
            [helper.make_tensor_value_info("product", result, (_SIDE, _SIDE))],
            [onnx.numpy_helper.from_array(right, "right")],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return lambda: session.run(None, {"left": left})
