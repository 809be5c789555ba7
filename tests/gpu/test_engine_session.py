"""The suite of engines' sessions on the GPU; every precision, and what TensorRT alone can be asked for."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from alexnet_deploy.engines.build import engine_from_onnx
from alexnet_deploy.engines.options import EngineOptions, Profile, able_sms
from alexnet_deploy.machine import gpu_sm
from alexnet_deploy.optional import is_installed
from alexnet_deploy.pipeline.stages import Deployment
from alexnet_deploy.pipeline.workspace import Workspace
from alexnet_deploy.runtimes.engine import EngineSession
from alexnet_deploy.runtimes.session import CUDA_GRAPH, SessionSpec
from alexnet_deploy.specs import GraphOptions, Lowering, Precision, RoundingOptions, WeightRounding
from tests.graphs import relative_error, shipped_batch
from tests.runtimes.engine_suite import *  # noqa: F403 - the suite is collected here
from tests.runtimes.engine_suite import ONE, Profiles, expected

BACKENDS = ("tensorrt", "tensorrt-rtx")
# FP32 is FP32, TF32 being off; narrow types show what they cost.
TOLERANCES = {
    Precision.FP32: 1e-4, Precision.FP16: 1e-2, Precision.BF16: 5e-2, Precision.INT8: 0.2, Precision.FP8: 0.3,
    Precision.INT4: 0.2,
}  # fmt: skip
Record = Callable[[str, object], None]


def require_backend(backend: str, precision: Precision = Precision.FP32) -> int:
    """The GPU's SM, where the backend is here and builds the precision for it."""
    sm = gpu_sm()
    if not (is_installed(backend.replace("-", "_")) and is_installed("pycuda")):
        pytest.skip(f"{backend} or pycuda is not installed")
    if sm is None or (backend == "tensorrt-rtx" and sm not in able_sms(precision)):
        pytest.skip(f"{backend} has no {precision.value} for SM{sm}")
    if (precision, backend) == (Precision.FP8, "tensorrt") and sm < 89:
        pytest.skip(f"SM{sm} has no FP8")
    return sm


@dataclass
class GpuRig:
    """The suite's engines, on the GPU at hand."""

    runtime: str
    folder: Path
    checkpoint: Path
    tolerance: float = TOLERANCES[Precision.FP32]
    made: int = 0

    def deployment(self) -> Deployment:
        return Deployment(Workspace(folder=self.folder), model=str(self.checkpoint))

    def build(self, options: EngineOptions, lowering: Lowering | None = None) -> Path:
        self.made += 1
        deployment = self.deployment()
        if options.precision in (Precision.INT8, Precision.FP8, Precision.INT4):
            deployment.calibration(images=64)
        return deployment.engine(
            dataclasses.replace(options, backend=self.runtime, sms=(require_backend(self.runtime),)),
            output=self.folder / f"{self.made}.engine",
            graph_options=GraphOptions(
                rounding=RoundingOptions(rounding=WeightRounding.NEAREST, bias_correction=False)
            ),
            lowering=lowering,
        ).path

    def engine(self, profiles: Profiles = ONE) -> Path:
        batches = tuple(Profile(min=least, opt=best, max=most) for least, best, most in profiles)
        return self.build(EngineOptions(precision=Precision.FP32, profiles=batches))

    def session(self, path: Path, *, graph: bool = False, trust: bool = False) -> EngineSession:
        hint = CUDA_GRAPH if graph else None
        spec = SessionSpec(runtime=self.runtime, precision=Precision.FP32, path=path, threads=1, hint=hint, trust=trust)
        return EngineSession(spec)

    def memory(self) -> int:
        torch.cuda.synchronize()
        free, total = torch.cuda.mem_get_info()
        return int(total - free)


@pytest.fixture(params=BACKENDS)
def rig(request: pytest.FixtureRequest, tmp_path: Path, small_checkpoint: Path) -> GpuRig:
    require_backend(request.param)
    return GpuRig(runtime=request.param, folder=tmp_path, checkpoint=small_checkpoint)


@cache
def reference() -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return expected(shipped_batch(16))


@pytest.mark.parametrize("lowering", [Lowering.NATIVE, Lowering.PLUGIN])
@pytest.mark.parametrize("precision", TOLERANCES)
def test_every_precision_computes_the_network(
    precision: Precision, lowering: Lowering, rig: GpuRig, record_property: Record
) -> None:
    require_backend(rig.runtime, precision)
    images = shipped_batch(16)
    with rig.session(rig.build(EngineOptions(precision=precision), lowering)) as session:
        got = session.run(images)
    error = relative_error(got, reference())
    record_property(f"{rig.runtime} {precision.value} {lowering.value}: relative error", error)
    assert error < TOLERANCES[precision]
    assert (got.argmax(axis=1) == reference().argmax(axis=1)).mean() >= 0.85


def test_graphs_give_the_same_bits(rig: GpuRig) -> None:
    path, images = rig.engine(), shipped_batch(16)
    with rig.session(path) as plain, rig.session(path, graph=True) as captured:
        for batch in (1, 16, 4, 4):
            for _ in range(3):
                np.testing.assert_array_equal(captured.run(images[:batch]), plain.run(images[:batch]))


def test_times_are_recorded(rig: GpuRig, record_property: Record) -> None:
    images = shipped_batch(16)
    path = rig.build(EngineOptions(precision=Precision.FP16))
    for graph in (False, True):
        with rig.session(path, graph=graph) as session:
            for batch in (1, 16):
                for _ in range(20):
                    session.run(images[:batch])
                record_property(f"{rig.runtime} fp16 batch {batch}{' graph' if graph else ''}", session.device_times)


@pytest.mark.parametrize(
    "options",
    [
        EngineOptions(version_compatible=True),
        EngineOptions(hardware_compatible="ampere+"),
        EngineOptions(hardware_compatible="same-sm"),
        EngineOptions(optimization_level=1),
        EngineOptions(refit=True),
        EngineOptions(strip=True),
        EngineOptions(workspace_bytes=64 << 20),
    ],
    ids=lambda options: next(
        name for name, value in options.to_json().items() if value != EngineOptions().to_json()[name]
    ),
)
def test_what_tensorrt_can_be_asked_for_computes_the_network(options: EngineOptions, rig: GpuRig) -> None:
    if rig.runtime == "tensorrt-rtx":
        pytest.skip("an option of TensorRT")
    images = shipped_batch(4)
    with rig.session(rig.build(options)) as session:
        assert relative_error(session.run(images), reference()[:4]) < TOLERANCES[Precision.FP16]


def test_exchangeable_weights_in_tensorrt_rtx(rig: GpuRig) -> None:
    if rig.runtime == "tensorrt":
        pytest.skip("covered above")
    with rig.session(rig.build(EngineOptions(refit=True))) as session:
        assert session.run(shipped_batch(1)).shape == (1, 10)


def test_a_timing_cache_is_taken_again(rig: GpuRig) -> None:
    if rig.runtime == "tensorrt-rtx":
        pytest.skip("TensorRT-RTX has none")
    rig.engine()
    cache_file = rig.folder / "tensorrt.timing-cache"
    stored = cache_file.read_bytes()
    assert stored
    graph = rig.deployment().fp32_graph().path.read_bytes()
    options = EngineOptions(precision=Precision.FP32, backend=rig.runtime)
    first, again = (engine_from_onnx(graph, options, timing_cache=given) for given in (None, stored))
    assert again.timing_cache and first.plan.layers and again.plan.layers == first.plan.layers
