"""Launches compiled LRN kernels on a stream that somebody else owns, through the CUDA driver.

Built, not run on the machines of this project: the driver is reached only where there is a GPU.
"""

from __future__ import annotations

import ctypes
import json
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from alexnet_deploy.errors import EngineError
from alexnet_deploy.machine import cuda_call
from alexnet_deploy.optional import require

if TYPE_CHECKING:
    from alexnet_deploy.lrn.cubin import CompiledKernel

# How `packed` begins, keys being sorted and the kernel having this name.
_HEADER_START = b'[{"name": "lrn_kernel"'
_POINTER_AND_SIZES = (ctypes.c_void_p, *[ctypes.c_int] * 5, ctypes.c_void_p)


@dataclass(frozen=True, kw_only=True)
class PackedKernel:
    """What it takes to launch a kernel: everything but its input."""

    sm: int
    name: str
    threads: int
    shared_bytes: int
    cubin: bytes


def packed(kernels: Iterable[CompiledKernel]) -> bytes:
    """One block of bytes that an engine can carry: the same kernels, the same bytes."""
    ordered = sorted(kernels, key=lambda kernel: kernel.sm)
    rows = [
        {"sm": k.sm, "name": k.name, "threads": k.threads, "shared_bytes": k.shared_bytes, "size": len(k.cubin)}
        for k in ordered
    ]
    header = json.dumps(rows, sort_keys=True).encode()
    return struct.pack("<I", len(header)) + header + b"".join(kernel.cubin for kernel in ordered)


def unpacked(data: bytes) -> tuple[PackedKernel, ...]:
    """Reads what `packed` wrote.

    Raises:
        EngineError: It is cut short or of another form.
    """
    try:
        (length,) = struct.unpack_from("<I", data)
        rows, at, found = json.loads(data[4 : 4 + length]), 4 + length, []
        for row in rows:
            size = row.pop("size")
            cubin = data[at : at + size]
            if len(cubin) != size:
                raise ValueError(f"the kernel for sm{row['sm']} is cut short")
            found.append(PackedKernel(**row, cubin=cubin))
            at += size
    except (struct.error, ValueError, KeyError, TypeError, AttributeError) as exc:
        raise EngineError("the engine's LRN kernels cannot be read", got=exc) from exc
    return tuple(found)


def carried_sms(plan: bytes) -> tuple[int, ...]:
    """The SMs for which every packed block of kernels in a plan has one, in order.

    Raises:
        EngineError: A block is damaged.
    """
    found: set[int] | None = None
    at = plan.find(_HEADER_START)
    while at >= 0:
        try:
            (length,) = struct.unpack_from("<I", plan, at - 4)
            block = {int(row["sm"]) for row in json.loads(plan[at : at + length])}
        except (struct.error, ValueError, KeyError, TypeError) as exc:
            raise EngineError("the engine's LRN kernels cannot be read", got=exc) from exc
        found = block if found is None else found & block
        at = plan.find(_HEADER_START, at + length)
    return tuple(sorted(found or ()))


def kernel_for(kernels: Iterable[PackedKernel], sm: int) -> PackedKernel:
    """The newest kernel that a GPU runs: machine code runs on its own generation, from its own SM upwards.

    Raises:
        EngineError: There is none.
    """
    held = list(kernels)
    fitting = [kernel for kernel in held if kernel.sm // 10 == sm // 10 and kernel.sm <= sm]
    if not fitting:
        raise EngineError(
            f"the engine's LRN plugin has no kernel for SM{sm}",
            got=", ".join(f"sm{kernel.sm}" for kernel in held) or "none",
            remedy=f"build it again with --sm sm{sm}",
        )
    return max(fitting, key=lambda kernel: kernel.sm)


class LoadedKernel:
    """A kernel in the driver.

    Args:
        kernels: For several SMs; the current device's is loaded.

    Raises:
        MissingDependencyError: cuda-bindings is not installed.
        EngineError: There is no kernel for the device, or the driver refused it.
    """

    def __init__(self, kernels: Iterable[PackedKernel]) -> None:
        require("cuda.bindings", "running the LRN plugin")
        from cuda.bindings import driver

        self._driver = driver
        try:
            sm = self._device_sm()
        except EngineError:
            raise
        except Exception as exc:  # the bindings raise what their search for the driver's library raises
            raise EngineError("the CUDA driver cannot be loaded for the LRN plugin", got=exc) from exc
        self._packed = kernel_for(kernels, sm)
        self._library = self._called(driver.cuLibraryLoadData, self._packed.cubin, [], [], 0, [], [], 0)
        self._kernel = self._called(driver.cuLibraryGetKernel, self._library, self._packed.name.encode())

    def launch(
        self, source: int, sizes: tuple[int, int, int, int, int], target: int, *, grid: int, stream: int
    ) -> None:
        """Puts the kernel on `stream`; `sizes` are channels, height, width, output height and width.

        Raises:
            EngineError: The driver refused it.
        """
        arguments = ((source, *sizes, target), _POINTER_AND_SIZES)
        block, shared = self._packed.threads, self._packed.shared_bytes
        launch = self._driver.cuLaunchKernel
        self._called(launch, self._kernel, grid, 1, 1, block, 1, 1, shared, stream, arguments, 0)

    def _device_sm(self) -> int:
        driver = self._driver
        names = driver.CUdevice_attribute
        device = self._called(driver.cuCtxGetDevice)
        major, minor = (
            self._called(driver.cuDeviceGetAttribute, attribute, device)
            for attribute in (
                names.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
                names.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
            )
        )
        return int(10 * major + minor)

    def _called(self, function: Any, *arguments: Any) -> Any:
        return cuda_call(function, *arguments, error=EngineError, purpose=" for the LRN plugin")
