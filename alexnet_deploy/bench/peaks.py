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
from alexnet_deploy.machine import CPU_BF16_FLAGS, cpu_flags
from alexnet_deploy.specs import Precision

# Another number where the kernels below change.
PEAKS_VERSION = 1
_SIDE, _RUNS = 1536, 8
_READ_BYTES = 512 << 20
# A GPU's caches hold tens of megabytes and its products take microseconds.
_GPU_SIDE, _GPU_READ_BYTES = 8192, 4 << 30


@dataclass(frozen=True, kw_only=True)
class Peaks:
    """The most that a device attains.

    Attributes:
        device: `cpu` or `cuda`.
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


def measured_peaks(device: str, threads: int) -> Peaks:
    """Measures in a process of its own, which takes a few seconds.

    Raises:
        SessionError: The process ended.
    """
    worker = Worker(_MakeMeter(device, threads), "the measurement of peaks")
    worker.start()
    try:
        peaks: Peaks = worker.ask("peaks")
    finally:
        worker.close()
    return peaks


@dataclass(frozen=True)
class _MakeMeter:
    device: str
    threads: int

    def __call__(self) -> _Meter:
        return _Meter(self.device, self.threads)


# What a kernel is called, how much one run of it does, and the run.
_Kernel = tuple[str, float, Callable[[], object]]


class _Meter:
    """Runs the kernels."""

    def __init__(self, device: str, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        torch.manual_seed(0)
        self._device, self._threads = device, threads

    def peaks(self) -> Peaks:
        rates, kernels = dict[str, float](), dict[str, str]()
        on_gpu = self._device == "cuda"
        for name, of in {"read": self._reads, **(self._gpu_products if on_gpu else self._cpu_products)()}.items():
            for kernel, amount, run in of():
                rate = amount / self._best_seconds(run)
                if rate > rates.get(name, 0.0):
                    rates[name], kernels[name] = rate, kernel
        read = rates.pop("read")
        return Peaks(
            device=self._device,
            threads=self._threads,
            read_bytes_per_second=read,
            macs_per_second=rates,
            kernels=kernels,
        )

    def _best_seconds(self, run: Callable[[], object]) -> float:
        import torch

        def finished() -> None:
            run()
            if self._device == "cuda":
                torch.cuda.synchronize()

        finished()
        times = []
        for _ in range(_RUNS):
            started = time.perf_counter()
            finished()
            times.append(time.perf_counter() - started)
        return min(times)

    def _reads(self) -> Iterator[_Kernel]:
        import torch

        size_bytes = _GPU_READ_BYTES if self._device == "cuda" else _READ_BYTES
        values = torch.ones(size_bytes // 4, device=self._device)
        yield "torch.sum", size_bytes, values.sum
        yield "torch.max", size_bytes, values.max

    def _cpu_products(self) -> dict[str, Callable[[], Iterator[_Kernel]]]:
        products = {Precision.FP32.value: self._fp32, Precision.INT8.value: self._int8}
        if cpu_flags() & CPU_BF16_FLAGS:
            products[Precision.BF16.value] = lambda: self._product("bfloat16", _SIDE)
        return products

    def _gpu_products(self) -> dict[str, Callable[[], Iterator[_Kernel]]]:
        return {
            Precision.FP32.value: lambda: self._product("float32", _GPU_SIDE),
            Precision.FP16.value: lambda: self._product("float16", _GPU_SIDE),
            Precision.BF16.value: lambda: self._product("bfloat16", _GPU_SIDE),
            Precision.INT8.value: lambda: self._int_product(_GPU_SIDE),
        }

    def _product(self, kind: str, side: int) -> Iterator[_Kernel]:
        import torch

        factor = torch.randn(side, side, device=self._device).to(getattr(torch, kind))
        yield "torch.mm", float(side) ** 3, lambda: torch.mm(factor, factor)

    def _int_product(self, side: int) -> Iterator[_Kernel]:
        import torch

        factor = torch.randint(-127, 128, (side, side), dtype=torch.int8, device=self._device)
        yield "torch._int_mm", float(side) ** 3, lambda: torch._int_mm(factor, factor)

    def _fp32(self) -> Iterator[_Kernel]:
        yield from self._product("float32", _SIDE)
        factor = np.random.default_rng(0).standard_normal((_SIDE, _SIDE)).astype(np.float32)
        yield "ONNX Runtime MatMul", float(_SIDE) ** 3, self._onnx_product("MatMul", factor, factor)

    def _int8(self) -> Iterator[_Kernel]:
        yield from self._int_product(_SIDE)
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
