"""The LRN kernel compiled ahead of time: PTX and machine code for one SM, and what ptxas says of it. No GPU needed."""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alexnet_deploy.errors import EngineError, InputError
from alexnet_deploy.optional import require
from alexnet_deploy.specs import Precision

if TYPE_CHECKING:
    from alexnet_deploy.lrn.kernel_spec import KernelSpec

KERNEL_SMS = (75, 80, 86, 87, 89, 90, 100, 120, 121)
KERNEL_PRECISIONS = (Precision.FP32, Precision.FP16, Precision.BF16)
_WARPS = 4
# The oldest PTX that knows the SM: a driver reads older PTX than its own, never newer.
_PTX_VERSIONS = {75: 80, 80: 80, 86: 80, 87: 80, 89: 80, 90: 80, 100: 86, 120: 87, 121: 88}


@dataclass(frozen=True, kw_only=True)
class CompiledKernel:
    """One instance of the kernel for one SM.

    Attributes:
        sm: GPU architecture, as 10 * major + minor.
        precision: Of input and output; sums are FP32.
        name: Entry point. Arguments: input pointer; channels, height, width, output height and width as int32;
            output pointer.
        threads: In a block.
        shared_bytes: Shared memory of a block.
        registers: Of a thread.
        spill_bytes: Stored and loaded by a thread because registers ran out.
    """

    spec: KernelSpec
    sm: int
    precision: Precision
    name: str
    ptx: str
    cubin: bytes
    threads: int
    shared_bytes: int
    registers: int
    spill_bytes: int

    def to_json(self) -> dict[str, Any]:
        """What `inspect` shows; the code itself is left out."""
        return {
            "sm": f"sm{self.sm}",
            "precision": self.precision.value,
            "pooled": self.spec.pooled,
            "layout": "NHWC" if self.spec.channels_last else "NCHW",
            "threads": self.threads,
            "registers": self.registers,
            "spill_bytes": self.spill_bytes,
            "shared_bytes": self.shared_bytes,
            "cubin_bytes": len(self.cubin),
        }


@cache
def kernel_from_spec(spec: KernelSpec, precision: Precision, sm: int) -> CompiledKernel:
    """Compiles the kernel for an SM.

    Raises:
        InputError: The SM or the precision is not one of `KERNEL_SMS` and `KERNEL_PRECISIONS`.
        MissingDependencyError: Triton is not installed.
        EngineError: The compiler failed.
    """
    if sm not in KERNEL_SMS or precision not in KERNEL_PRECISIONS:
        raise InputError(
            "the LRN kernel is not made for this",
            got=f"{precision.value}, sm{sm}",
            expected=f"{', '.join(KERNEL_PRECISIONS)}; {', '.join(f'sm{known}' for known in KERNEL_SMS)}",
        )
    if sm == 75 and precision is Precision.BF16:
        raise InputError("SM75 has no bf16 arithmetic", remedy="leave SM75 out, or use FP16")
    triton = require("triton", "compiling the LRN kernel")
    compiled = _compile(triton, spec, precision, sm)
    ptx = without_scratch_parameters(compiled.asm["ptx"], compiled.metadata.name)
    if compiled.metadata.global_scratch_size or compiled.metadata.profile_scratch_size:
        raise EngineError("the LRN kernel was compiled with scratch memory", got=triton.__version__)
    cubin, report = _assembled(ptx, sm)
    return CompiledKernel(
        spec=spec,
        sm=sm,
        precision=precision,
        name=compiled.metadata.name,
        ptx=ptx,
        cubin=cubin,
        threads=compiled.metadata.num_warps * 32,
        shared_bytes=compiled.metadata.shared,
        registers=_number(r"Used (\d+) registers", report),
        spill_bytes=_number(r"(\d+) bytes spill stores", report) + _number(r"(\d+) bytes spill loads", report),
    )


def _compile(triton: Any, spec: KernelSpec, precision: Precision, sm: int) -> Any:
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from alexnet_deploy.lrn.kernel import compiled_lrn

    constants = spec.constants
    pointer = f"*{precision.value}"
    signature = {"x_ptr": pointer, "y_ptr": pointer} | dict.fromkeys(
        ("channels", "height", "width", "out_height", "out_width"), "i32"
    )
    ordered = {
        name: "constexpr" if name in constants else signature[name]
        for name in compiled_lrn.arg_names
    }  # fmt: skip
    # Both runtimes align tensors to 16 bytes at least.
    aligned = [["tt.divisibility", 16]]
    attributes = {(compiled_lrn.arg_names.index(name),): aligned for name in ("x_ptr", "y_ptr")}
    options = {"num_warps": _WARPS, "ptx_version": _PTX_VERSIONS[sm]}
    source = ASTSource(compiled_lrn, signature=ordered, constexprs=constants, attrs=attributes)
    try:
        with triton.knobs.compilation.scope():
            # Line information holds the path of this installation: the same kernel would differ by machine.
            triton.knobs.compilation.disable_line_info = True
            return triton.compile(source, target=GPUTarget("cuda", sm, 32), options=options)
    except Exception as exc:
        # Triton's compiler raises types of its own from several layers, C++ among them.
        raise EngineError(f"the LRN kernel does not compile for SM{sm}", got=str(exc).split("\n")[0]) from exc


def without_scratch_parameters(ptx: str, name: str) -> str:
    """Triton appends two pointers to scratch memory to every kernel; callers outside Triton do not pass them.

    Raises:
        EngineError: The kernel uses them, or the text has another form.
    """
    entry = re.search(rf"(\.entry {re.escape(name)}\()(.*?)(\n\))", ptx, re.DOTALL)
    parameters = re.findall(r"\.param[^,\n]*", entry[2]) if entry else []
    if entry is None or len(parameters) != 9:
        raise EngineError(
            "Triton wrote an entry point of unknown form", got=f"{len(parameters)} parameters", expected=9
        )
    for index in (7, 8):
        if re.search(rf"\[{re.escape(name)}_param_{index}[\]+]", ptx):
            raise EngineError("the LRN kernel uses scratch memory", got=f"parameter {index} is read")
    kept = ",\n\t".join(parameter.strip() for parameter in parameters[:7])
    return ptx[: entry.start(2)] + "\n\t" + kept + ptx[entry.end(2) :]


def _assembled(ptx: str, sm: int) -> tuple[bytes, str]:
    """Machine code, and ptxas's report, from the ptxas that comes with Triton."""
    from triton.backends.nvidia.compiler import get_ptxas

    target = re.search(r"^\.target (\S+)", ptx, re.MULTILINE)
    with tempfile.TemporaryDirectory() as folder:
        source, result = Path(folder) / "lrn.ptx", Path(folder) / "lrn.cubin"
        source.write_text(ptx)
        command = [get_ptxas(sm).path, "-v", f"--gpu-name={target[1] if target else f'sm_{sm}'}", source, "-o", result]
        run = subprocess.run(command, capture_output=True, text=True)
        if run.returncode:
            raise EngineError(f"ptxas refused the LRN kernel for SM{sm}", got=run.stderr.strip().split("\n")[0])
        return result.read_bytes(), run.stderr + run.stdout


def _number(pattern: str, report: str) -> int:
    found = re.search(pattern, report)
    if found is None:
        raise EngineError("ptxas reported in an unknown form", got=report.strip().split("\n")[0], expected=pattern)
    return int(found[1])
