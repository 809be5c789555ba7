"""How ONNX Runtime and OpenVINO want their integers on this CPU: speed and accuracy of each way, interleaved.

Quantizes the shipped model from one calibration table in every way that a target could take, and measures them beside
FP32 with the standard LRN node and with the banded one.

usage: python -m benchmarks.int8_schemes
"""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_deploy.bench.bench import rows_from_candidates
from alexnet_deploy.bench.candidate import BenchOptions, Candidate
from alexnet_deploy.bench.runner import EvaluationData, RemoteRunner, evaluation_source
from alexnet_deploy.export import lowered
from alexnet_deploy.files import write_json
from alexnet_deploy.graph import read_graph, write_graph
from alexnet_deploy.machine import environment, usable_cpus
from alexnet_deploy.pipeline.stages import Deployment
from alexnet_deploy.pipeline.workspace import Workspace
from alexnet_deploy.precision.qdq import QuantizationScheme, int8_with_scheme
from alexnet_deploy.precision.table import CalibrationTable
from alexnet_deploy.progress import Voice
from alexnet_deploy.runtimes.session import SessionSpec
from alexnet_deploy.specs import Lowering, Precision

RESULT = Path(__file__).parent / "results" / "int8-schemes.json"
RUNS, ROUNDS, IMAGES = 24, 6, 1000
_PLAIN = QuantizationScheme()
_UNSIGNED = QuantizationScheme(unsigned_activations=True)
_UNSIGNED_7 = QuantizationScheme(unsigned_activations=True, weight_steps=63)
SCHEMES: dict[str, tuple[str, Lowering, QuantizationScheme | None]] = {
    "onnxruntime-cpu FP32, LRN node": ("onnxruntime-cpu", Lowering.NATIVE, None),
    "onnxruntime-cpu FP32, banded LRN": ("onnxruntime-cpu", Lowering.BANDED, None),
    "onnxruntime-cpu u8 x 8 bits": ("onnxruntime-cpu", Lowering.BANDED, _UNSIGNED),
    "onnxruntime-cpu u8 x 7 bits": ("onnxruntime-cpu", Lowering.BANDED, _UNSIGNED_7),
    "onnxruntime-cpu s8 x 8 bits": ("onnxruntime-cpu", Lowering.BANDED, _PLAIN),
    "openvino FP32, LRN node": ("openvino", Lowering.NATIVE, None),
    "openvino FP32, banded LRN": ("openvino", Lowering.BANDED, None),
    "openvino s8 x 8 bits": ("openvino", Lowering.NATIVE, _PLAIN),
    "openvino u8 x 8 bits": ("openvino", Lowering.NATIVE, _UNSIGNED),
    "openvino u8 x 7 bits": ("openvino", Lowering.NATIVE, _UNSIGNED_7),
}


def _for(runtime: str, scheme: QuantizationScheme) -> QuantizationScheme:
    """ONNX Runtime fuses only with quantized outputs and an int32 bias."""
    fused = runtime == "onnxruntime-cpu"
    return dataclasses.replace(scheme, quantize_outputs=fused, int32_bias=fused)


def main() -> None:
    """Measures all the ways and writes `results/int8-schemes.json`."""
    with tempfile.TemporaryDirectory() as folder:
        deployment = Deployment(Workspace(folder=Path(folder), voice=Voice()))
        model = read_graph(deployment.fp32_graph().path)
        table = CalibrationTable.read(deployment.calibration().path)
        candidates = []
        for index, (runtime, lowering, scheme) in enumerate(SCHEMES.values()):
            graph = model if scheme is None else int8_with_scheme(model, table, _for(runtime, scheme))
            path = Path(folder) / f"way{index}.onnx"
            write_graph(lowered(graph, lowering), path)
            precision = Precision.FP32 if scheme is None else Precision.INT8
            spec = SessionSpec(
                runtime=runtime, precision=precision, path=path, threads=usable_cpus(), lrn=lowering.value
            )
            candidates.append(Candidate(spec=spec, size_bytes=path.stat().st_size))
        source = evaluation_source("shipped")
        data = EvaluationData(data="shipped", preprocessing=deployment.info.preprocessing, indices=np.arange(IMAGES))
        options = BenchOptions(runs=RUNS, rounds=ROUNDS, threads=usable_cpus())
        rows = rows_from_candidates(
            candidates, options, lambda spec: RemoteRunner(spec, data), source.labels[:IMAGES], voice=Voice()
        )
    names = [name for name in SCHEMES for _ in options.batches]
    document: dict[str, Any] = {
        "schema": 1,
        "what": "the shipped model quantized in every way; max calibration on 512 images, accuracy on 1,000",
        "environment": environment(),
        "rows": [{"way": name, **row} for name, row in zip(names, rows, strict=True)],
    }
    write_json(RESULT, document)
    for row in document["rows"]:
        if row["status"] == "ok":
            print(
                f"batch {row['batch']:2}  {row['latency_ms']['median']:8.2f} ms  top-1 {100 * row['top1']:.2f} %  "
                f"SQNR {row['sqnr_db']} dB  {row['way']}"
            )


if __name__ == "__main__":
    main()
