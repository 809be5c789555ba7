"""The kernel ahead of time: for its SM, within a thread's registers, callable by others, the same each time."""

from __future__ import annotations

import re
import struct
import sys
import tempfile
from functools import partial
from pathlib import Path

import pytest

from alexnet_deploy.errors import EngineError, InputError, MissingDependencyError
from alexnet_deploy.lrn import cubin
from alexnet_deploy.lrn.cubin import KERNEL_SMS, CompiledKernel, kernel_from_spec, without_scratch_parameters
from alexnet_deploy.lrn.kernel_spec import KernelSpec
from alexnet_deploy.specs import LrnSpec, Precision

PAPER = LrnSpec(size=5, alpha=1e-4, beta=0.75, bias=2.0)
EVEN = LrnSpec(size=4, alpha=1e-3, beta=0.6, bias=1.0)
# A generation each, and the other betas, layouts and types on the way; the newest PTX that the SM needs.
REQUESTS = {
    75: (KernelSpec(lrn=PAPER), Precision.FP16, 80),
    86: (KernelSpec(lrn=EVEN, pooled=True), Precision.FP32, 80),
    89: (KernelSpec(lrn=EVEN, pooled=True, channels_last=True), Precision.BF16, 80),
    90: (KernelSpec(lrn=LrnSpec(beta=1.0), channels_last=True), Precision.FP16, 80),
    100: (KernelSpec(lrn=LrnSpec(beta=0.5, size=9), pooled=True), Precision.FP16, 86),
    120: (KernelSpec(lrn=PAPER, pooled=True), Precision.FP16, 87),
}
every_generation = pytest.mark.parametrize("sm", REQUESTS)


def compiled(sm: int) -> CompiledKernel:
    spec, precision, _ = REQUESTS[sm]
    return kernel_from_spec(spec, precision, sm)


@every_generation
def test_the_machine_code_is_for_its_sm(sm: int) -> None:
    kernel = compiled(sm)
    assert (kernel.sm, kernel.spec, kernel.precision) == (sm, *REQUESTS[sm][:2])
    assert kernel.cubin[:4] == b"\x7fELF"
    abi = kernel.cubin[7]
    (machine,), (flags,) = struct.unpack_from("<H", kernel.cubin, 18), struct.unpack_from("<I", kernel.cubin, 48)
    # CUDA's ELF: the SM moved by a byte with the ABI of CUDA 13.
    assert (machine, flags >> (8 if abi == 0x41 else 0) & 0xFF) == (190, sm)


@every_generation
def test_a_thread_has_registers_enough(sm: int) -> None:
    kernel = compiled(sm)
    assert kernel.spill_bytes == 0
    assert 16 <= kernel.registers <= 255
    assert kernel.threads == 128
    assert kernel.registers * kernel.threads <= 65_536
    assert kernel.shared_bytes <= 48 << 10


@every_generation
def test_the_ptx_takes_seven_arguments_and_an_old_driver(sm: int) -> None:
    kernel = compiled(sm)
    entry = re.search(rf"\.visible \.entry {kernel.name}\((.*?)\)", kernel.ptx, re.DOTALL)
    assert entry
    types = re.findall(r"\.param \.(u\d+)", entry[1])
    assert types == ["u64", *["u32"] * 5, "u64"]
    used = {int(number) for number in re.findall(rf"{kernel.name}_param_(\d+)", kernel.ptx)}
    assert used <= set(range(7))
    version = re.search(r"^\.version (\d+)\.(\d+)$", kernel.ptx, re.MULTILINE)
    assert version and int(version[1]) * 10 + int(version[2]) <= REQUESTS[sm][2]
    target = re.search(r"^\.target sm_(\d+)a?$", kernel.ptx, re.MULTILINE)
    assert target and int(target[1]) == sm
    reserved = re.search(r"\.reqntid (\d+)", kernel.ptx)
    assert reserved and int(reserved[1]) == kernel.threads


@every_generation
def test_nothing_of_this_machine_is_in_the_code(sm: int) -> None:
    kernel = compiled(sm)
    places = [Path(cubin.__file__).parent, Path.home(), Path(sys.prefix), Path(tempfile.gettempdir())]
    for code in (kernel.cubin, kernel.ptx.encode()):
        for place in places:
            assert str(place).encode() + b"/" not in code
        assert b"kernel.py" not in code and b".loc" not in code and b"lrn.ptx" not in code


def test_the_same_request_gives_the_same_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, precision, _ = REQUESTS[86]
    first = kernel_from_spec(spec, precision, 86)
    # Triton keeps what it compiled; this time it finds nothing.
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))
    again = kernel_from_spec.__wrapped__(spec, precision, 86)
    assert any((tmp_path / "cache").iterdir())
    assert again is not first and again == first


def test_other_constants_give_other_code() -> None:
    specs = (KernelSpec(lrn=PAPER), KernelSpec(lrn=LrnSpec(alpha=2e-4, bias=2.0)), KernelSpec(lrn=PAPER, pooled=True))
    assert len({kernel_from_spec(spec, Precision.FP16, 89).cubin for spec in specs}) == 3


def test_the_document_leaves_the_code_out() -> None:
    kernel = compiled(89)
    assert kernel.to_json() == {
        "sm": "sm89",
        "precision": "bf16",
        "pooled": True,
        "layout": "NHWC",
        "threads": 128,
        "registers": kernel.registers,
        "spill_bytes": 0,
        "shared_bytes": kernel.shared_bytes,
        "cubin_bytes": len(kernel.cubin),
    }


@pytest.mark.parametrize("sm", [0, 70, 81, 99, 130])
def test_an_unknown_sm_is_refused_with_the_known_ones(sm: int) -> None:
    with pytest.raises(InputError, match="not made for this") as caught:
        kernel_from_spec(KernelSpec(lrn=PAPER), Precision.FP16, sm)
    assert f"sm{sm}" in str(caught.value.got)
    assert all(f"sm{known}" in str(caught.value.expected) for known in KERNEL_SMS)


@pytest.mark.parametrize("precision", [Precision.INT8, Precision.FP8, Precision.INT4])
def test_a_type_without_a_kernel_is_refused(precision: Precision) -> None:
    with pytest.raises(InputError, match="not made for this") as caught:
        kernel_from_spec(KernelSpec(lrn=PAPER), precision, 89)
    assert precision.value in str(caught.value.got) and "bf16" in str(caught.value.expected)


def test_turing_is_refused_bf16() -> None:
    with pytest.raises(InputError, match="SM75 has no bf16") as caught:
        kernel_from_spec(KernelSpec(lrn=PAPER), Precision.BF16, 75)
    assert caught.value.remedy


def test_without_triton_the_remedy_is_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    with pytest.raises(MissingDependencyError, match="triton") as caught:
        kernel_from_spec.__wrapped__(KernelSpec(lrn=PAPER), Precision.FP16, 89)
    assert caught.value.remedy == "pip install 'alexnet-deploy[plugin]'"


def test_what_ptxas_refuses_is_an_error_in_its_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cubin, "without_scratch_parameters", lambda ptx, name: ptx.replace("mul.lo.s32", "mul.what"))
    with pytest.raises(EngineError, match="ptxas refused the LRN kernel for SM89") as caught:
        kernel_from_spec.__wrapped__(KernelSpec(lrn=PAPER), Precision.FP16, 89)
    assert "ptxas" in str(caught.value.got) or "error" in str(caught.value.got)


def test_what_triton_refuses_is_an_error_in_its_words(monkeypatch: pytest.MonkeyPatch) -> None:
    from triton.runtime.jit import JITFunction

    from alexnet_deploy.lrn import kernel

    monkeypatch.setattr(kernel, "compiled_lrn", JITFunction(kernel_that_triton_cannot_read))
    with pytest.raises(EngineError, match="does not compile for SM89") as caught:
        kernel_from_spec.__wrapped__(KernelSpec(lrn=PAPER), Precision.FP16, 89)
    assert caught.value.got


def kernel_that_triton_cannot_read(  # type: ignore[no-untyped-def]
    x_ptr, channels, height, width, out_height, out_width, y_ptr,
    BELOW, ABOVE, SCALE, BETA, BIAS, SIDE, STRIDE, CHANNELS_LAST, BLOCK_C, BLOCK_P,
):  # fmt: skip
    """It reads from a number."""
    return channels[0]


def ptx_of(parameters: int, body: str = "ret;") -> str:
    lines = ",\n".join(f"\t.param .u64 k_param_{index}" for index in range(parameters))
    return f".version 8.0\n.target sm_89\n\n.visible .entry k(\n{lines}\n)\n{{\n\t{body}\n}}\n"


def test_the_last_two_of_nine_parameters_go() -> None:
    body = "ld.param.u64 %rd1, [k_param_6];"
    got = without_scratch_parameters(ptx_of(9, body), "k")
    assert [int(index) for index in re.findall(r"\.param \.u64 k_param_(\d)", got)] == list(range(7))
    assert got.startswith(".version 8.0\n.target sm_89\n") and got.endswith(f"\n)\n{{\n\t{body}\n}}\n")


@pytest.mark.parametrize("index", [7, 8])
@pytest.mark.parametrize("at", ["", "+8"])
def test_scratch_memory_that_is_used_is_an_error(index: int, at: str) -> None:
    with pytest.raises(EngineError, match="scratch memory") as caught:
        without_scratch_parameters(ptx_of(9, f"ld.param.u64 %rd1, [k_param_{index}{at}];"), "k")
    assert str(index) in str(caught.value.got)


@pytest.mark.parametrize(
    ("make", "got"),
    [
        (partial(ptx_of, 7), "7 parameters"),
        (partial(ptx_of, 10), "10 parameters"),
        (lambda: ptx_of(9).replace("k(", "other("), "0 parameters"),
        (lambda: "", "0 parameters"),
    ],
    ids=["seven", "ten", "another kernel", "nothing"],
)
def test_an_entry_point_of_another_form_is_an_error(make: partial[str], got: str) -> None:
    with pytest.raises(EngineError, match="unknown form") as caught:
        without_scratch_parameters(make(), "k")
    assert caught.value.got == got


def test_a_report_of_another_form_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cubin, "_assembled", lambda ptx, sm: (b"\x7fELF", "ptxas says nothing\nof use"))
    with pytest.raises(EngineError, match="unknown form") as caught:
        kernel_from_spec.__wrapped__(KernelSpec(lrn=PAPER), Precision.FP16, 89)
    assert caught.value.got == "ptxas says nothing" and "registers" in str(caught.value.expected)


def test_scratch_memory_in_the_metadata_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = cubin._compile

    def with_scratch(*request: object) -> object:
        made = honest(*request)  # type: ignore[arg-type]
        made.metadata = made.metadata._replace(global_scratch_size=16)
        return made

    monkeypatch.setattr(cubin, "_compile", with_scratch)
    with pytest.raises(EngineError, match="with scratch memory"):
        kernel_from_spec.__wrapped__(KernelSpec(lrn=PAPER), Precision.FP16, 89)
