"""On a GPU the kernel is the oracle's, compiled just in time and ahead of time alike; speed is recorded, not judged."""

from __future__ import annotations

import importlib
import statistics
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from onnx import helper

from alexnet_deploy.engines.build import engine_from_onnx
from alexnet_deploy.engines.options import EngineOptions
from alexnet_deploy.graph import graph_bytes
from alexnet_deploy.lrn.cubin import kernel_from_spec
from alexnet_deploy.lrn.kernel import lrn_on_device
from alexnet_deploy.lrn.kernel_spec import KernelSpec
from alexnet_deploy.lrn.launch import LoadedKernel, packed, unpacked
from alexnet_deploy.lrn.node import lower_to_plugin
from alexnet_deploy.lrn.oracle import lrn_reference
from alexnet_deploy.machine import gpu_sm
from alexnet_deploy.optional import is_installed
from alexnet_deploy.specs import RTX_SMS, LrnSpec, Precision
from tests.graphs import model_of
from tests.lrn.cases import FP16_BOUND, FP32_BOUND

PAPER = LrnSpec(size=5, alpha=1e-4, beta=0.75, bias=2.0)
SPECS = (
    PAPER,
    LrnSpec(size=5, alpha=1.0, beta=0.5, bias=1.0),
    LrnSpec(size=9, alpha=1e-2, beta=1.0, bias=2.0),
    LrnSpec(size=3, alpha=0.5, beta=0.3, bias=1.0),
    LrnSpec(size=5, alpha=0.1, beta=1.3, bias=1.0),
    LrnSpec(size=2, alpha=1.0, beta=0.75, bias=1.0),
    LrnSpec(size=4, alpha=1e-3, beta=0.6, bias=1.0),
    LrnSpec(size=21, alpha=1e-2, beta=0.75, bias=2.0),
)
TYPES = {Precision.FP32: torch.float32, Precision.FP16: torch.float16, Precision.BF16: torch.bfloat16}
# Of BF16, units in its last place, as FP16_BOUND is of FP16.
BITS = {torch.float32: 23, torch.float16: 10, torch.bfloat16: 7}
RUNS = 30

every_type = pytest.mark.parametrize("precision", TYPES)
every_form = pytest.mark.parametrize(
    ("pooled", "channels_last"),
    [(False, False), (False, True), (True, False), (True, True)],
    ids=["NCHW", "NHWC", "NCHW and pool", "NHWC and pool"],
)
papers_shapes = pytest.mark.parametrize("shape", [(96, 55, 55), (256, 27, 27)], ids=["norm1", "norm2"])
every_backend = pytest.mark.parametrize("backend", ["tensorrt", "tensorrt-rtx"])
Runner = Callable[[], object]


def activations(shape: tuple[int, ...], dtype: torch.dtype, largest: float = 60_000.0) -> torch.Tensor:
    """Of either sign, magnitudes evenly over the powers of ten up to `largest`."""
    generator = torch.Generator().manual_seed(3)
    exponents = torch.rand(shape, generator=generator) * (np.log10(largest) + 3) - 3
    signs = torch.randint(0, 2, shape, generator=generator) * 2 - 1
    return (signs * torch.pow(10.0, exponents)).to(dtype).cuda()


def assert_oracle(got: torch.Tensor, x: torch.Tensor, spec: KernelSpec) -> None:
    wide = torch.from_numpy(lrn_reference(x.double().cpu().numpy(), spec.lrn))
    wanted = (torch.max_pool2d(wide, 3, 2) if spec.pooled else wide).numpy()
    assert got.dtype == x.dtype and got.shape == wanted.shape
    values = got.double().cpu().numpy()
    if got.dtype == torch.float32:
        allowed = FP32_BOUND * np.abs(wanted) + float(np.finfo(np.float32).tiny)
    else:
        smallest = float(torch.finfo(got.dtype).tiny)
        _, exponents = np.frexp(np.maximum(np.abs(wanted), smallest))
        allowed = FP16_BOUND * np.ldexp(1.0, exponents - 1 - BITS[got.dtype])
    excess = np.abs(values - wanted) - allowed
    assert np.isfinite(values).all() and float(excess.max()) <= 0


@every_type
@every_form
@pytest.mark.parametrize("lrn", SPECS, ids=lambda lrn: f"window {lrn.size}, beta {lrn.beta}")
def test_the_kernel_is_the_oracles(lrn: LrnSpec, pooled: bool, channels_last: bool, precision: Precision) -> None:
    spec = KernelSpec(lrn=lrn, pooled=pooled, channels_last=channels_last)
    x = activations((3, 35, 13, 9), TYPES[precision])
    assert_oracle(lrn_on_device(x, spec), x, spec)


@every_type
@every_form
def test_the_papers_own_shapes_are_the_oracles(pooled: bool, channels_last: bool, precision: Precision) -> None:
    spec = KernelSpec(lrn=PAPER, pooled=pooled, channels_last=channels_last)
    for shape in ((2, 96, 55, 55), (2, 256, 27, 27)):
        x = activations(shape, TYPES[precision])
        assert_oracle(lrn_on_device(x, spec), x, spec)


def test_a_nan_stays_in_its_window() -> None:
    x = activations((1, 9, 5, 5), torch.float16, 10.0)
    x[0, 4, 2, 2] = float("nan")
    found = torch.isnan(lrn_on_device(x, KernelSpec(lrn=PAPER))).nonzero().tolist()
    assert found == [[0, channel, 2, 2] for channel in range(2, 7)]


def test_offsets_go_beyond_two_to_the_31() -> None:
    images, sides = 513, (256, 128, 128)
    each = 2 * sides[0] * sides[1] * sides[2]
    if torch.cuda.mem_get_info()[0] < 2.5 * images * each:
        pytest.skip("too little memory on the GPU")
    assert images * each // 2 > 2**31
    x = torch.zeros((images, *sides), dtype=torch.float16, device="cuda")
    last = activations(sides, torch.float16)
    x[-1] = last
    spec = KernelSpec(lrn=PAPER)
    got = lrn_on_device(x, spec)
    assert torch.equal(got[-1:], lrn_on_device(last[None], spec))
    assert not bool(got[:-1].any())


@every_type
@every_form
@pytest.mark.parametrize("lrn", [PAPER, SPECS[6]], ids=["paper", "even window"])
def test_machine_code_from_ahead_of_time_gives_the_same_bits(
    lrn: LrnSpec, pooled: bool, channels_last: bool, precision: Precision
) -> None:
    sm = gpu_sm()
    assert sm is not None
    pytest.importorskip("cuda.bindings")
    spec = KernelSpec(lrn=lrn, pooled=pooled, channels_last=channels_last)
    memory = torch.channels_last if channels_last else torch.contiguous_format
    x = activations((3, 35, 13, 9), TYPES[precision]).contiguous(memory_format=memory)
    expected = lrn_on_device(x, spec)
    y = torch.full_like(expected, float("nan"))
    shape = (x.shape[0], x.shape[1], x.shape[2], x.shape[3])
    loaded = LoadedKernel(unpacked(packed([kernel_from_spec(spec, precision, sm)])))
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    loaded.launch(
        x.data_ptr(),
        (*shape[1:], *spec.output_shape(shape)[2:]),
        y.data_ptr(),
        grid=spec.grid(shape),
        stream=stream.cuda_stream,
    )
    stream.synchronize()
    assert torch.equal(y, expected)


def ratio_of(slow: Runner, fast: Runner) -> dict[str, float]:
    """How many times as long `slow` takes, from one interleaved run: the median, and the middle half."""
    for _ in range(5):
        slow(), fast()
    ratios = []
    for _ in range(RUNS):
        times = []
        for call in (slow, fast):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
            torch.cuda.synchronize()
            start.record()
            call()
            end.record()
            torch.cuda.synchronize()
            times.append(start.elapsed_time(end))
        ratios.append(times[0] / times[1])
    low, middle, high = statistics.quantiles(ratios, n=4)
    return {"median": middle, "low": low, "high": high, "runs": RUNS}


@papers_shapes
@pytest.mark.parametrize("batch", [1, 16])
def test_the_time_of_torchs_norm_and_pool_is_recorded(
    shape: tuple[int, int, int], batch: int, record_property: Callable[[str, object], None]
) -> None:
    x = activations((batch, *shape), torch.float32, 100.0)
    norm = torch.nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=2.0)
    spec = KernelSpec(lrn=PAPER, pooled=True)

    def theirs() -> torch.Tensor:
        return torch.max_pool2d(norm(x), 3, 2)

    torch.testing.assert_close(lrn_on_device(x, spec), theirs(), rtol=1e-5, atol=1e-6)
    found = ratio_of(theirs, lambda: lrn_on_device(x, spec))
    assert all(value > 0 for value in found.values())
    record_property("torch / ours", found)
    record_property("device", torch.cuda.get_device_name())


def engine_runner(backend: str, shape: tuple[int, ...], x: torch.Tensor, y: torch.Tensor, *, plugin: bool) -> Runner:
    """Builds LRN and its pool for this GPU, with the backend's own layer or our plugin; puts them on torch's stream."""
    module, sm = backend.replace("-", "_"), gpu_sm()
    if not is_installed(module):
        pytest.skip(f"{backend} is not installed")
    if sm is None or (backend == "tensorrt-rtx" and sm not in RTX_SMS):
        pytest.skip(f"{backend} builds nothing for SM{sm}")
    nodes = [
        helper.make_node("LRN", ["x"], ["n"], name="norm1", size=5, alpha=1e-4, beta=0.75, bias=2.0),
        helper.make_node("MaxPool", ["n"], ["y"], name="pool1", kernel_shape=[3, 3], strides=[2, 2]),
    ]
    model = model_of(nodes, shape, {})
    if plugin:
        lower_to_plugin(model)
    options = EngineOptions(precision=Precision.FP32, backend=backend, sms=(sm,), plugin=plugin)
    plan = engine_from_onnx(graph_bytes(model), options).data
    trt: Any = importlib.import_module(module)
    runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
    engine = runtime.deserialize_cuda_engine(plan)
    context = engine.create_execution_context()
    context.set_tensor_address("x", x.data_ptr())
    context.set_tensor_address("y", y.data_ptr())

    def call() -> object:
        assert context.execute_async_v3(torch.cuda.current_stream().cuda_stream)
        # An engine that is collected before its context takes it along.
        return runtime, engine

    return call


@every_backend
@pytest.mark.parametrize("plugin", [True, False], ids=["plugin", "native"])
def test_an_engine_computes_the_oracles_norm(backend: str, plugin: bool) -> None:
    x, spec = activations((2, 24, 13, 9), torch.float32, 100.0), KernelSpec(lrn=PAPER, pooled=True)
    expected = lrn_on_device(x, spec)
    y = torch.full_like(expected, float("nan"))
    engine_runner(backend, tuple(x.shape), x, y, plugin=plugin)()
    torch.cuda.synchronize()
    if plugin:
        assert_oracle(y, x, spec)
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-5)


@every_backend
@papers_shapes
@pytest.mark.parametrize("batch", [1, 16])
def test_the_time_of_tensorrts_own_layer_is_recorded(
    backend: str, shape: tuple[int, int, int], batch: int, record_property: Callable[[str, object], None]
) -> None:
    x, spec = activations((batch, *shape), torch.float32, 100.0), KernelSpec(lrn=PAPER, pooled=True)
    y = torch.empty_like(lrn_on_device(x, spec))
    theirs, ours = (engine_runner(backend, tuple(x.shape), x, y, plugin=plugin) for plugin in (False, True))
    found = ratio_of(theirs, ours)
    assert all(value > 0 for value in found.values())
    record_property(f"{backend} native / plugin", found)
    record_property("device", torch.cuda.get_device_name())
