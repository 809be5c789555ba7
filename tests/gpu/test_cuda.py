"""ONNX Runtime on CUDA computes what it computes on the CPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from alexnet_deploy.pipeline.stages import Deployment
from alexnet_deploy.pipeline.workspace import Workspace
from alexnet_deploy.runtimes.open import open_session
from alexnet_deploy.runtimes.session import SessionSpec
from alexnet_deploy.specs import Precision
from tests.conftest import SMALL_SIDE


def test_cuda_agrees_with_the_cpu(small_checkpoint: Path, tmp_path: Path) -> None:
    graph = Deployment(Workspace(folder=tmp_path), model=str(small_checkpoint)).fp32_graph()
    images = np.random.default_rng(0).standard_normal((5, 3, SMALL_SIDE, SMALL_SIDE)).astype(np.float32)
    outputs = []
    for runtime in ("onnxruntime-cpu", "onnxruntime-cuda"):
        spec = SessionSpec(runtime=runtime, precision=Precision.FP32, path=graph.path, threads=2)
        with open_session(spec) as session:
            outputs.append(session.run(images))
    np.testing.assert_allclose(outputs[1], outputs[0], atol=1e-3 * np.abs(outputs[0]).max())
