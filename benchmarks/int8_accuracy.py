"""What each way to INT8 costs in accuracy: thresholds, rounding, calibration images, formats.

Every row is the shipped model as a target gets it, beside the others. ONNX Runtime and OpenVINO run their graphs;
TensorRT's are computed by ONNX Runtime in FP32 with the quantization in between.

usage: python -m benchmarks.int8_accuracy [--data fashion-mnist] [--only rounding,methods,images,low-bits]
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from alexnet_deploy import export
from alexnet_deploy.bench.runner import evaluation_source
from alexnet_deploy.data.batches import load_batch
from alexnet_deploy.data.sources import ImageSource
from alexnet_deploy.files import write_json
from alexnet_deploy.graph import read_graph, write_graph
from alexnet_deploy.machine import environment, usable_cpus
from alexnet_deploy.pipeline.calibration import table_images
from alexnet_deploy.pipeline.guard import opened_for
from alexnet_deploy.pipeline.int8 import Int8Maker
from alexnet_deploy.pipeline.lrn_choice import lrn_choice
from alexnet_deploy.pipeline.rounding import ROUNDING_IMAGES, moments_of
from alexnet_deploy.pipeline.stages import Deployment
from alexnet_deploy.pipeline.workspace import Workspace
from alexnet_deploy.precision.calibrate import table_from_images
from alexnet_deploy.precision.int4 import int4_from_fp32, linear_layers
from alexnet_deploy.precision.qdq import float8_from_fp32
from alexnet_deploy.precision.rounding import MeasuredRounding
from alexnet_deploy.precision.table import CalibrationTable
from alexnet_deploy.precision.thresholds import Method
from alexnet_deploy.precision.weights import Rounding, nearest
from alexnet_deploy.progress import Voice
from alexnet_deploy.runtimes.open import open_session
from alexnet_deploy.runtimes.session import SessionSpec
from alexnet_deploy.specs import PLAIN_ROUNDING, Lowering, Precision, RoundingOptions, Target, WeightRounding
from benchmarks.equalize_tried import equalized
from benchmarks.side_by_side import accuracies

if TYPE_CHECKING:
    import onnx_ir as ir

RESULT = Path(__file__).parent / "results" / "int8-accuracy.json"
TARGETS = (Target.ONNXRUNTIME_CPU, Target.OPENVINO, Target.TENSORRT_RTX)
_GPTQ = replace(PLAIN_ROUNDING, rounding=WeightRounding.GPTQ)
ROUNDINGS = {
    "nearest": PLAIN_ROUNDING,
    "nearest, bias correction": replace(PLAIN_ROUNDING, bias_correction=True),
    "nearest, weight thresholds": replace(PLAIN_ROUNDING, weight_thresholds=True),
    "GPTQ": _GPTQ,
    "GPTQ, bias correction": replace(_GPTQ, bias_correction=True),
    "GPTQ, bias correction, weight thresholds": replace(_GPTQ, bias_correction=True, weight_thresholds=True),
}
# Batches of 50 images of the whole training set.
IMAGES = (250, 500, 2500)
# Evaluation images of each part; the whole test set where a bar is set. What only TensorRT runs is computed in FP32,
# which takes longer than all the rest.
PARTS = {"rounding": 2500, "methods": 2500, "images": 10_000, "low-bits": 2500}
_RUN_HERE = (Target.ONNXRUNTIME_CPU, Target.OPENVINO)


@dataclass
class Maker:
    """The shipped model, its tables, and how its weights can be rounded."""

    deployment: Deployment
    data: str
    roundings: dict[tuple[RoundingOptions, Path], Rounding] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.model = read_graph(self.deployment.fp32_graph().path)
        self.path = self.deployment.calibration().path

    def rounding(self, options: RoundingOptions, path: Path) -> Rounding:
        """Measured once for all targets."""
        if (options, path) not in self.roundings:
            moments = moments_of(
                self.model, self.deployment.info, CalibrationTable.read(path), path, full=True, voice=Voice()
            )
            self.roundings[options, path] = MeasuredRounding(options, moments)
        return self.roundings[options, path]

    def ways(self, part: str) -> Iterator[tuple[dict[str, Any], Target, ir.Model]]:
        """Label, target and int8 graph of each row."""
        table = CalibrationTable.read(self.path)
        if part == "rounding":
            for name, options in ROUNDINGS.items():
                for target in TARGETS:
                    yield {"way": name}, target, self._int8(table, target, self.rounding(options, self.path))
                self.roundings.clear()
            yield from self._equalized(table)
        elif part == "methods":
            for method in Method:
                for target in TARGETS:
                    yield {"way": method.value}, target, self._int8(table.by_method(method), target, nearest)
        elif part == "low-bits":
            yield from self._low_bits(table)
        elif part == "images":
            for count in IMAGES:
                path = self.deployment.workspace.folder / f"{count}.json"
                self.deployment.calibration(data=self.data, images=count, output=path)
                table = CalibrationTable.read(path)
                for target in _RUN_HERE:
                    rounding = self.rounding(RoundingOptions(), path)
                    yield {"way": f"{count // 50} batches of 50"}, target, self._int8(table, target, rounding)

    def _low_bits(self, table: CalibrationTable) -> Iterator[tuple[dict[str, Any], Target, ir.Model]]:
        moments = moments_of(self.model, self.deployment.info, table, self.path, full=True, voice=Voice())
        # Where inputs do not go together, GPTQ rounds to the nearest.
        apart = {
            name: replace(found, second=np.eye(found.second.shape[1], dtype=np.float32)[None])
            for name, found in moments.items()
            if name in linear_layers(self.model)
        }
        quantized = {
            "FP8": float8_from_fp32(self.model, table),
            "INT4 weights in fc6 to fc8, to the nearest": int4_from_fp32(self.model, apart),
            "INT4 weights in fc6 to fc8, GPTQ": int4_from_fp32(self.model, moments),
        }
        for name, model in quantized.items():
            yield {"way": name}, Target.TENSORRT_RTX, export.lowered(model, Lowering.BANDED)

    def _equalized(self, table: CalibrationTable) -> Iterator[tuple[dict[str, Any], Target, ir.Model]]:
        source = table_images(table, self.path, len(table.images))
        preprocessing = self.deployment.info.preprocessing
        images = load_batch(source, np.arange(ROUNDING_IMAGES), preprocessing).images
        model = equalized(self.model, images)
        table = table_from_images(model, source, preprocessing, table.graph_sha256)
        for target in TARGETS:
            yield {"way": "nearest, equalization"}, target, self._int8(table, target, nearest, model)

    def _int8(
        self, table: CalibrationTable, target: Target, rounding: Rounding, model: ir.Model | None = None
    ) -> ir.Model:
        return Int8Maker(
            model=model or self.model,
            info=self.deployment.info,
            table=table,
            target=target,
            choice=lrn_choice(target, Precision.INT8, []),
            rounding=rounding,
        ).graph()


@click.command()
@click.option("--data", default="fashion-mnist", show_default=True, help="Test set, and training set of `images`.")
@click.option("--only", default=",".join(PARTS), show_default=True)
@click.option("--json", "target", type=click.Path(), default=str(RESULT), show_default=True)
def main(data: str, only: str, target: str) -> None:
    """Measures the parts, and keeps what the document has of the others."""
    document: dict[str, Any] = json.loads(Path(target).read_text()) if Path(target).is_file() else {"schema": 1}
    for part in only.split(","):
        with tempfile.TemporaryDirectory() as name:
            deployment = Deployment(Workspace(folder=Path(name), voice=Voice()))
            source = evaluation_source(data)
            source = source.subset(range(min(PARTS[part], len(source))))
            rows = _measured(Maker(deployment, data), part, source)
        document[part] = {"environment": environment(), "data": data, "images": len(source), "rows": rows}
        write_json(Path(target), document)
        for row in rows:
            click.echo(
                f"{part:9} {row['target']:16} top-1 {100 * row['top1']:.2f} drop {100 * row['drop']:+.2f} agreement "
                f"{100 * row['agreement']:.2f} SQNR {row['sqnr_db']:.2f} dB  {row['way']}"
            )


def _measured(maker: Maker, part: str, source: ImageSource) -> list[dict[str, Any]]:
    """All graphs of a part beside FP32."""
    folder = maker.deployment.workspace.folder
    banded = maker.deployment.graph(Precision.FP32, Target.ONNXRUNTIME_CPU).path
    spec = SessionSpec(runtime="onnxruntime-cpu", precision=Precision.FP32, path=banded, threads=usable_cpus())
    rows, runs = [], []
    with ExitStack() as stack:
        reference = stack.enter_context(open_session(spec))
        for index, (label, target, model) in enumerate(maker.ways(part)):
            path = folder / f"way{index}.onnx"
            write_graph(model, path)
            runs.append(stack.enter_context(opened_for(path, target)))
            rows.append({**label, "target": target.value})
            path.unlink()
        _, *found = accuracies([reference.run, *runs], source, maker.deployment.info.preprocessing)
    return [{**row, **facts} for row, facts in zip(rows, found, strict=True)]


if __name__ == "__main__":
    main()
