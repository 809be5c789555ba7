"""Quantizes a graph with NNCF, in an environment of its own.

usage: python -m benchmarks.peer_nncf GRAPH.onnx IMAGES.npy OUT.xml

NNCF's documented way for OpenVINO: `nncf.quantize` over the OpenVINO model, with its default preset, «performance»: it
recommends «mixed» where activations are not all ReLU, and AlexNet's are.
"""

from __future__ import annotations

import sys

import numpy as np

from benchmarks.peer_worker import Meter, report


def main(graph: str, images: str, out: str) -> None:
    """Reports what the whole call costs: it does not tell when it has calibrated."""
    import nncf
    import openvino

    arrays = list(np.load(images))
    meter = Meter()
    model = openvino.Core().read_model(graph)
    data = nncf.Dataset(arrays, lambda image: image[None])
    # The subset's default of 300 is a limit: the images beyond it would not be looked at.
    quantized = nncf.quantize(model, data, subset_size=len(arrays))
    openvino.save_model(quantized, out)
    report(meter.read())


if __name__ == "__main__":
    main(*sys.argv[1:4])
