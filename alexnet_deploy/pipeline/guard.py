"""The accuracy guard over a target: which images, and how the target's graph is evaluated on them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from alexnet_deploy import export, graph
from alexnet_deploy.bench.statistics import Accuracy, Ratio, accuracy_from_logits, ratio_from_samples
from alexnet_deploy.data.batches import PreprocessedImages
from alexnet_deploy.data.shipped import Split, shipped_hashes, shipped_images
from alexnet_deploy.data.sources import ImageSource
from alexnet_deploy.errors import DataError, ParityError
from alexnet_deploy.graph_guard import read_proto
from alexnet_deploy.machine import usable_cpus
from alexnet_deploy.pipeline.int8 import Int8Maker
from alexnet_deploy.pipeline.timed import ROUNDS, timed
from alexnet_deploy.precision.guard import Guarded, guarded
from alexnet_deploy.precision.table import CalibrationTable
from alexnet_deploy.progress import Voice
from alexnet_deploy.runtimes.open import open_session
from alexnet_deploy.runtimes.session import SessionSpec
from alexnet_deploy.specs import CPU_TARGETS, Lowering, Precision, Target
from alexnet_deploy.weights import ModelInfo

if TYPE_CHECKING:
    import onnx_ir as ir
    from numpy.typing import NDArray

BATCH = 16
LEAST_SQNR_DB = 3.0


def guard_images(table: CalibrationTable) -> ImageSource:
    """The shipped guard images, which are neither calibration nor evaluation images.

    Raises:
        DataError: The table was made on some of them.
    """
    source = shipped_images(Split.GUARD)
    own = {source.content_hash(index) for index in range(len(source))}
    shared = own & set(table.images) or own & shipped_hashes(Split.EVALUATION)
    if shared:
        raise DataError(
            "guard images were used for calibration or evaluation",
            got=f"{len(shared)} of {len(own)} shared",
            expected="three sets that share no image",
            remedy="calibrate on other images",
        )
    return source


def guard_choice(maker: Int8Maker, max_drop: float, *, voice: Voice) -> Guarded:
    """Decides which layers stay in float.

    CPU targets are evaluated in their own runtime, and timed there where layers have to be ranked. TensorRT's graphs
    are computed by ONNX Runtime in float with the quantization in between, which rounds as the engine does and adds up
    in another order.

    Args:
        maker: Of the int8 graph.
        max_drop: Largest loss of top-1, as a fraction.
        voice: Shows progress.
    """
    guards = GuardSet(maker.model, maker.info, maker.table, voice)

    def evaluate(keep_float: Collection[str]) -> NDArray[np.float32]:
        return _logits(maker.graph(keep_float), maker.target, guards.images)

    def gains() -> dict[str, Ratio]:
        return _gains(maker, voice)

    timeable = maker.target in CPU_TARGETS
    return guarded(maker.layers, evaluate, guards.labels, max_drop, gains=gains if timeable else None, voice=voice)


def _gains(maker: Int8Maker, voice: Voice) -> dict[str, Ratio]:
    """How many times as long the network takes where a layer alone is in float."""
    everything, *others = timed(
        {"all in int8": maker.graph(), **{f"{layer} in float": maker.graph([layer]) for layer in maker.layers}},
        maker.target,
        Precision.INT8,
        maker.info.preprocessing,
        voice,
    ).values()
    return {
        layer: ratio_from_samples(samples, everything, ROUNDS)
        for layer, samples in zip(maker.layers, others, strict=True)
    }


class GuardSet:
    """The guard images as a model sees them, and what FP32 says of them.

    Args:
        model: The FP32 graph.
        info: Its description.
        table: The calibration table, which must not share images with it.
        voice: Hears where there are no labels.
    """

    def __init__(self, model: ir.Model, info: ModelInfo, table: CalibrationTable, voice: Voice) -> None:
        source = guard_images(table)
        self.labels = source.labels if info.labels == source.classes else None
        if self.labels is None:
            voice.warn("the guard images are not of the model's classes: what FP32 says is taken for the truth")
        self.images = PreprocessedImages(source=source, spec=info.preprocessing, indices=np.arange(len(source)))
        self._model = model

    @cached_property
    def _reference(self) -> NDArray[np.float32]:
        return _logits(export.lowered(self._model, Lowering.BANDED), Target.TENSORRT, self.images)

    def accuracy(self, made: ir.Model, target: Target) -> Accuracy:
        """Of a quantized graph as its target computes it; TensorRT's is simulated."""
        truth = self._reference.argmax(axis=1) if self.labels is None else self.labels
        return accuracy_from_logits(_logits(made, target, self.images), self._reference, truth)

    def drop(self, made: ir.Model, target: Target) -> float:
        """Top-1 that the graph loses, as a fraction of the images."""
        found = self.accuracy(made, target)
        return (found.lost - found.won) / len(self.images)


def require_likeness(made: ir.Model, maker: Int8Maker, images: NDArray[np.float32]) -> float | None:
    """Compares an int8 graph, as its target computes it, with FP32: far off is a defect and no rounding.

    Args:
        made: The graph as the target gets it.
        maker: What it was made from.
        images: Real ones, `(N, 3, S, S)`.

    Returns:
        Power of FP32's logits over the power of the difference, in decibels; None where there is none.

    Raises:
        ParityError: It is below 3 dB.
    """
    reference = export.run_onnx(export.lowered(maker.model, Lowering.BANDED), images)
    sqnr = accuracy_from_logits(_logits(made, maker.target, images), reference, reference.argmax(axis=1)).sqnr_db
    if sqnr is not None and not sqnr >= LEAST_SQNR_DB:
        raise ParityError(
            f"the int8 graph computes something else than FP32 on {len(images)} images",
            got=f"{sqnr:.1f} dB from the logits to their error",
            expected=f"at least {LEAST_SQNR_DB:g} dB",
            remedy="calibrate on images as the network sees them in use, by another --method, or name a --max-drop",
        )
    return sqnr


def _logits(model: ir.Model, target: Target, images: PreprocessedImages | NDArray[np.float32]) -> NDArray[np.float32]:
    parts = range(0, len(images), BATCH)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "graph.onnx"
        graph.write_graph(model, path)
        with opened_for(path, target) as run:
            return np.concatenate([run(images[at : at + BATCH]) for at in parts])


@contextmanager
def opened_for(path: Path, target: Target) -> Iterator[Callable[[NDArray[np.float32]], NDArray[np.float32]]]:
    """An int8 graph, ready to compute logits from images.

    CPU targets run in their own runtime. TensorRT's graphs run in ONNX Runtime without its integer kernels, which
    quantizes, dequantizes and computes in FP32.
    """
    if target not in (Target.TENSORRT, Target.TENSORRT_RTX):
        spec = SessionSpec(runtime=target.value, precision=Precision.INT8, path=path, threads=usable_cpus())
        with open_session(spec) as opened:
            yield opened.run
        return
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if _holds_float8(path):
        # Its optimizers move FP8 to operators that have no FP8 kernels, or compute something else with it.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    yield lambda images: session.run(None, {name: images})[0]


def _holds_float8(path: Path) -> bool:
    import onnx

    loaded = read_proto(path)
    return any(tensor.data_type == onnx.TensorProto.FLOAT8E4M3FN for tensor in loaded.graph.initializer)
