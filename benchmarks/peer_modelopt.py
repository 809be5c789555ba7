"""Quantizes a graph with NVIDIA's modelopt, in an environment of its own.

usage: python peer_modelopt.py GRAPH.onnx IMAGES.npy OUT.onnx METHOD
       METHOD is entropy or max; weights and activations in INT8, the rest in FP32, which is what a CPU runs.
"""

import resource
import sys
import time

import numpy as np


def main(graph: str, images: str, out: str, method: str) -> None:
    """Prints version, seconds and peak memory in bytes."""
    import modelopt
    import modelopt.onnx.quantization as quantization

    started = time.perf_counter()
    quantization.quantize(
        onnx_path=graph,
        quantize_mode="int8",
        calibration_data=np.load(images),
        calibration_method=method,
        calibration_eps=["cpu"],
        high_precision_dtype="fp32",
        output_path=out,
    )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(f"{modelopt.__version__} {time.perf_counter() - started:.2f} {peak}")


if __name__ == "__main__":
    main(*sys.argv[1:5])
