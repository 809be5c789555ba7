"""Quantizes a graph with ONNX Runtime's quantize_static.

usage: python -m benchmarks.peer_static GRAPH.onnx IMAGES.npy OUT.onnx METHOD TYPES
       METHOD is MinMax, Entropy or Percentile; TYPES u8s8 or s8s8, activations first

After its own pre-processing, in QDQ and per channel, as its documentation recommends for CNNs on a CPU.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from benchmarks.peer_worker import Meter, report


def main(graph: str, images: str, out: str, method: str, types: str) -> None:
    """Reports what calibrating costs, and the whole."""
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    reader = _reader(np.load(images))
    prepared = Path(out).with_suffix(".prepared.onnx")
    meter = Meter()
    quant_pre_process(graph, str(prepared))
    with _calibration_measured() as calibration:
        quantize_static(
            str(prepared),
            out,
            reader,
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8 if types == "u8s8" else QuantType.QInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod[method],
        )
    report({**meter.read(), "calibration": calibration})
    prepared.unlink()


@contextmanager
def _calibration_measured() -> Iterator[dict[str, Any]]:
    """From the making of the calibrator to its thresholds; quantize_static does not tell by itself."""
    module: Any = import_module("onnxruntime.quantization.quantize")
    create, found = module.create_calibrator, dict[str, Any]()

    def created(*arguments: Any, **options: Any) -> Any:
        meter = Meter()
        calibrator = create(*arguments, **options)
        compute = calibrator.compute_data

        def computed() -> Any:
            thresholds = compute()
            found.update(meter.read())
            return thresholds

        calibrator.compute_data = computed
        return calibrator

    with patch.object(module, "create_calibrator", created):
        yield found


def _reader(images: Any) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._left = iter(range(len(images)))

        def get_next(self) -> dict[str, Any] | None:
            index = next(self._left, None)
            return None if index is None else {"input": images[index : index + 1]}

    return Reader()


if __name__ == "__main__":
    main(*sys.argv[1:6])
