"""What this machine is: processor, memory, GPUs, versions. Standard library only; nothing heavy is imported."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
import time
from collections.abc import Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from alexnet_deploy.errors import AlexnetDeployError

_MEASURED_PACKAGES = (
    "alexnet-deploy", "torch", "torchvision", "onnx", "onnxscript", "onnx-ir", "onnxruntime-gpu", "onnxruntime",
    "openvino", "tensorrt", "tensorrt-cu13", "tensorrt-cu12", "tensorrt-rtx", "onnxruntime-ep-nv-tensorrt-rtx",
    "pycuda", "cuda-bindings", "triton", "numpy", "pillow",
    "mlcommons-loadgen",
)  # fmt: skip
# What decides whether INT8 and bf16 are fast on a CPU.
CPU_BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16"})
CPU_INT8_FLAGS = frozenset({"avx_vnni", "avx512_vnni", "amx_int8"})
_NOTABLE_FLAGS = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16")


@cache
def count_gpus() -> int:
    """Number of CUDA devices the driver reports; 0 where there is no driver.

    Asks the driver itself: TensorRT-RTX without a driver does not raise, it returns None and logs.
    """
    driver, count = _cuda_driver(), ctypes.c_int(0)
    return count.value if driver is not None and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 else 0


@cache
def gpu_sm() -> int | None:
    """Architecture of the first CUDA device, as 10 * major + minor; None where there is none."""
    driver = _cuda_driver()
    if driver is None or count_gpus() == 0:
        return None
    # CUdevice_attribute's numbers for the compute capability (cuda.h).
    major, minor = ctypes.c_int(0), ctypes.c_int(0)
    for value, attribute in ((major, 75), (minor, 76)):
        if driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, 0) != 0:
            return None
    return 10 * major.value + minor.value


@cache
def gpu_name() -> str | None:
    """Name of the first CUDA device, as the driver has it; None where there is none."""
    driver, name = _cuda_driver(), ctypes.create_string_buffer(256)
    if driver is None or count_gpus() == 0 or driver.cuDeviceGetName(name, len(name), 0) != 0:
        return None
    return name.value.decode(errors="replace")


def pop_cuda_context() -> None:
    """Takes the current context off the driver's own stack; nothing where there is no driver."""
    driver = _cuda_driver()
    if driver is not None:
        driver.cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p()))


def cuda_driver_version() -> str | None:
    """The newest CUDA that the driver runs, as `13.1`; None where there is no driver."""
    driver, version = _cuda_driver(), ctypes.c_int(0)
    if driver is None or driver.cuDriverGetVersion(ctypes.byref(version)) != 0:
        return None
    return f"{version.value // 1000}.{version.value % 1000 // 10}"


def _cuda_driver() -> ctypes.CDLL | None:
    for name in ("libcuda.so.1", "nvcuda.dll"):
        try:
            driver = ctypes.CDLL(name)
        except OSError:
            continue
        if driver.cuInit(0) == 0:
            return driver
    return None


def cpu_flags() -> frozenset[str]:
    """Instruction-set flags as Linux names them; empty elsewhere."""
    return frozenset(_cpuinfo("flags").split())


def _cpuinfo(key: str) -> str:
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
            for line in file:
                name, _, value = line.partition(":")
                if name.strip() == key:
                    return value.strip()
    except OSError:
        pass
    return ""


def usable_cpus() -> int:
    """CPUs this process may use: those it is bound to, and of a quota of CPU time the whole ones."""
    quota = cpu_quota()
    return len(own_cpus()) if quota is None else max(1, min(len(own_cpus()), int(quota)))


def own_cpus() -> frozenset[int]:
    """Numbers of the CPUs that this process is bound to."""
    return frozenset(os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1))


def cpu_quota(groups: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> float | None:
    """CPUs' worth of time that the kernel gives this process at most, as of `docker run --cpus`; None without a bound.

    The least of its control group and those above it (cgroup v2's `cpu.max`, v1's `cpu.cfs_quota_us`). More threads
    than that are stopped for the rest of each period, which no timing tells.
    """
    found = []
    for path in _own_groups(own):
        for base, names in ((groups, ("cpu.max",)), (groups / "cpu", ("cpu.cfs_quota_us", "cpu.cfs_period_us"))):
            for folder in (base / path, *(base / path).parents):
                if folder == base.parent:
                    break
                found.append(_quota_of([folder / name for name in names]))
    return min((quota for quota in found if quota is not None), default=None)


def _own_groups(own: Path) -> list[str]:
    """Paths of this process's control groups; in a container they are often those of the host, and not to be seen."""
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return []
    fields = [line.split(":", 2) for line in lines]
    return ["", *(each[2].strip("/") for each in fields if len(each) == 3 and each[1] in ("", "cpu", "cpu,cpuacct"))]


def _quota_of(files: list[Path]) -> float | None:
    try:
        quota, period = (int(value) for file in files for value in file.read_text().split())
    except (OSError, ValueError):
        return None  # `max 100000` says that there is no bound
    return quota / period if quota > 0 and period > 0 else None


def memory_bytes() -> int:
    """Physical memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0


def cuda_call(function: Any, *arguments: Any, error: type[AlexnetDeployError], purpose: str = "") -> Any:
    """What a call of cuda-bindings gives besides its status.

    Raises:
        AlexnetDeployError: Of the class `error`: the driver refused it.
    """
    status, *values = function(*arguments)
    if int(status) != 0:
        raise error(f"the CUDA driver refused {function.__name__}{purpose}", got=status.name)
    return values[0] if values else None


def peak_memory_bytes(process: int | str = "self") -> int | None:
    """High-water mark of a process's memory, this one's by default; None where the system does not tell.

    Not getrusage: its mark survives fork and exec, so that a worker would report its parent's.
    """
    try:
        with open(f"/proc/{process}/status", encoding="ascii", errors="replace") as file:
            marks = [line.split()[1] for line in file if line.startswith("VmHWM:")]
    except OSError:
        return None
    return int(marks[0]) * 1024 if marks else None


def process_usage() -> tuple[float, float]:
    """CPU seconds of this process and all its threads, and the bytes of memory that it holds now; 0 where the system
    does not tell."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            pages = int(file.read().split()[1])
    except OSError:
        pages = 0
    return time.process_time(), float(pages * os.sysconf("SC_PAGE_SIZE"))


def version_of(distribution: str) -> str | None:
    """Installed version of a distribution, or None."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def tool_versions(*distributions: str) -> dict[str, str]:
    """Versions of those of the distributions that are installed."""
    found = {name: version_of(name) for name in distributions}
    return {name: version for name, version in found.items() if version}


def environment() -> dict[str, Any]:
    """What a measurement depends on, for a report: no host name, user or path."""
    flags = cpu_flags()
    return {
        "cpu": _cpuinfo("model name") or platform.processor() or platform.machine(),
        "cpu_family": "/".join(filter(None, [_cpuinfo("cpu family"), _cpuinfo("model"), _cpuinfo("stepping")])),
        "cpus": usable_cpus(),
        "cpu_quota": cpu_quota(),
        "cpu_flags": [flag for flag in _NOTABLE_FLAGS if flag in flags],
        "memory_bytes": memory_bytes(),
        "gpus": count_gpus(),
        "gpu": gpu_name(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": sys.version.split()[0],
        "packages": tool_versions(*_MEASURED_PACKAGES),
    }


def machine_in_words(values: Mapping[str, Any]) -> str:
    """An `environment` so that it is not taken for another: `AMD EPYC 25/1/1 (2 CPUs; avx2)`; one model name may stand
    for processors that differ in all that matters here."""
    flags = ", ".join(values.get("cpu_flags") or ["no flags known"])
    return f"{values['cpu']} {values.get('cpu_family', '')} ({values['cpus']} CPUs; {flags})"


def keep_freed_memory() -> bool:
    """Tells glibc to keep freed memory instead of giving it back to the kernel; returns whether it could.

    Training, and inference by torch, allocate and free tensors of tens of megabytes at every step; by default glibc
    maps and unmaps each one, and the page faults cost a quarter of the step.
    """
    m_trim_threshold, m_mmap_threshold = -1, -3
    try:
        libc = ctypes.CDLL("libc.so.6")
        return bool(libc.mallopt(m_mmap_threshold, 1 << 30) and libc.mallopt(m_trim_threshold, (1 << 31) - 1))
    except (OSError, AttributeError):
        return False
