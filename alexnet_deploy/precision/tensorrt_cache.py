"""TensorRT's legacy calibration cache: the text that its calibrators of versions 8 and 10 read instead of images."""

from __future__ import annotations

import struct

from alexnet_deploy.precision.table import CalibrationTable

# TensorRT 8.6.1; the algorithm's name has to be that of the calibrator which reads the file.
DEFAULT_VERSION = "8601"
_ALGORITHM = "EntropyCalibration2"


def cache_from_table(table: CalibrationTable, version: str = DEFAULT_VERSION) -> str:
    """One line a tensor: its name, and the symmetric scale as the hexadecimal digits of a big-endian FP32.

    Args:
        table: Thresholds are taken by its method.
        version: Of TensorRT, as the first line has it (8601, 100300).
    """
    lines = [f"TRT-{version}-{_ALGORITHM}"]
    for name in table.tensors:
        scale = struct.pack(">f", table.range_of(name).symmetric_scale).hex()
        lines.append(f"{name}: {scale}")
    return "\n".join(lines) + "\n"
