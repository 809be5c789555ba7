"""Quantizes with this project, as `export --precision int8` does, in a process of its own.

usage: python -m benchmarks.peer_ours FOLDER IMAGES TARGET
       FOLDER holds the FP32 graph with its passport, and gets what is made
"""

from __future__ import annotations

import sys
from pathlib import Path

from alexnet_deploy.pipeline.stages import Deployment
from alexnet_deploy.pipeline.workspace import Workspace
from alexnet_deploy.specs import Precision, Target
from benchmarks.peer_worker import Meter, report


def main(folder: str, images: str, target: str) -> None:
    """Reports what calibrating costs, by all four methods and with reading the images, and the whole."""
    import onnx_ir  # noqa: F401
    import onnxruntime  # noqa: F401

    deployment = Deployment(Workspace(folder=Path(folder)))
    deployment.info  # noqa: B018 - finds the FP32 graph
    meter = Meter()
    deployment.calibration(data="shipped", images=int(images))
    calibration = meter.read()
    deployment.graph(Precision.INT8, Target(target))
    report({**meter.read(), "calibration": calibration})


if __name__ == "__main__":
    main(*sys.argv[1:4])
