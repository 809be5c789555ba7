"""Quantizes a graph with NNCF, in an environment of its own: `python peer_nncf.py GRAPH.onnx IMAGES.npy OUT.xml`.

NNCF's documented way for OpenVINO: `nncf.quantize` over the OpenVINO model with its default preset and 300 images.
"""

import resource
import sys
import time

import numpy as np


def main(graph: str, images: str, out: str) -> None:
    """Prints seconds and peak memory in bytes."""
    import nncf
    import openvino

    started = time.perf_counter()
    model = openvino.Core().read_model(graph)
    data = nncf.Dataset(list(np.load(images)), lambda image: image[None])
    quantized = nncf.quantize(model, data)
    openvino.save_model(quantized, out)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(f"{nncf.__version__} {time.perf_counter() - started:.2f} {peak}")


if __name__ == "__main__":
    main(*sys.argv[1:4])
