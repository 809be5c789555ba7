"""Quantizes a graph with NVIDIA's modelopt, in an environment of its own.

usage: python -m benchmarks.peer_modelopt GRAPH.onnx IMAGES.npy OUT.onnx METHOD
       METHOD is entropy or max; weights and activations in INT8, the rest in FP32, which is what a CPU runs.
"""

from __future__ import annotations

import sys

import numpy as np

from benchmarks.peer_worker import Meter, report


def main(graph: str, images: str, out: str, method: str) -> None:
    """Reports what the whole call costs: it does not tell when it has calibrated."""
    import modelopt.onnx.quantization as quantization

    array = np.load(images)
    meter = Meter()
    quantization.quantize(
        onnx_path=graph,
        quantize_mode="int8",
        calibration_data=array,
        calibration_method=method,
        calibration_eps=["cpu"],
        high_precision_dtype="fp32",
        output_path=out,
    )
    report(meter.read())


if __name__ == "__main__":
    main(*sys.argv[1:5])
