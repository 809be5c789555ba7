"""What both of torch's exporters write, at every opset, and what the simplifiers make of it, is recovered exactly."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator
from torch import Tensor, nn

from alexnet_deploy.graph import inferred_copy
from alexnet_deploy.lrn.recovery import recover_lrn
from alexnet_deploy.normalise import normalise
from alexnet_deploy.specs import LrnSpec
from tests.graphs import evaluate, operators

CHANNELS = 9
SPECS = (
    LrnSpec(bias=2.0),
    LrnSpec(size=3, alpha=1e-3),
    LrnSpec(size=7, alpha=1.0, beta=0.5, bias=2.0),
    LrnSpec(size=5, alpha=1e-3, beta=1.0),
)
# What is dynamic, and (N, H, W) to run at.
DYNAMIC = {"static": (), "batch": (0,), "image": (0, 2, 3)}
SIZES = {"static": ((2, 6, 5),), "batch": ((2, 6, 5), (1, 6, 5)), "image": ((2, 6, 5), (1, 3, 8))}
AXES = {0: "batch", 2: "height", 3: "width"}
NEWEST = onnx.defs.onnx_opset_version()
NEWEST_OF_ONNXRUNTIME = 26
DYNAMO_OPSETS, TORCHSCRIPT_OPSETS = (18, 21, 23, NEWEST), (9, 11, 13, 14, 16, 17, 20)
EXPORTS = [
    *(("dynamo", opset, "batch") for opset in DYNAMO_OPSETS),
    *(("torchscript", opset, "batch") for opset in TORCHSCRIPT_OPSETS),
    *(("dynamo", opset, dynamic) for opset in (18, NEWEST) for dynamic in ("static", "image")),
    *(("torchscript", opset, dynamic) for opset in (11, 17) for dynamic in ("static", "image")),
    *(("torchscript-unfolded", 17, dynamic) for dynamic in DYNAMIC),
]
SIMPLIFIED = [
    *((exporter, opset, dynamic) for exporter, opset in (("dynamo", 18), ("torchscript", 17)) for dynamic in DYNAMIC),
    ("torchscript", 11, "batch"),
    ("torchscript-unfolded", 17, "batch"),
]


class Normalisations(nn.Module):
    """A convolution and every spec, with a ReLU between them."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, CHANNELS, 3, padding=1)
        self.layers = nn.ModuleList(
            nn.LocalResponseNorm(spec.size, alpha=spec.alpha, beta=spec.beta, k=spec.bias) for spec in SPECS
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for layer in self.layers:
            x = torch.relu(layer(x) * 3 + 1)
        return x


class Strided(nn.Module):
    """AlexNet's first layers, whose norms have sides that are computed from the image's."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 11, 4, 2), nn.ReLU(), nn.LocalResponseNorm(5, k=2.0), nn.MaxPool2d(3, 2),
            nn.Conv2d(8, 12, 5, padding=2), nn.ReLU(), nn.LocalResponseNorm(5, k=2.0), nn.MaxPool2d(3, 2),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x)
        return out


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Exporters and simplifiers talk, and warn about themselves."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)


def images(sizes: tuple[int, int, int]) -> NDArray[np.float32]:
    batch, height, width = sizes
    random = np.random.default_rng(0)
    return (3 * random.standard_normal((batch, 3, height, width))).astype(np.float32)


def exported_by_dynamo(module: nn.Module, x: Tensor, opset: int, dynamic: str) -> onnx.ModelProto:
    shapes = ({axis: torch.export.Dim(AXES[axis]) for axis in DYNAMIC[dynamic]},) if DYNAMIC[dynamic] else None
    program = torch.onnx.export(
        module, (x,), dynamo=True, opset_version=opset, dynamic_shapes=shapes, external_data=False, verbose=False
    )
    assert program is not None
    return program.model_proto


def exported_by_torchscript(module: nn.Module, x: Tensor, opset: int, dynamic: str, *, fold: bool) -> onnx.ModelProto:
    axes = {"x": {axis: AXES[axis] for axis in DYNAMIC[dynamic]}} if DYNAMIC[dynamic] else None
    with TemporaryDirectory() as directory:
        path = Path(directory) / "exported.onnx"
        torch.onnx.export(
            module, (x,), path, dynamo=False, opset_version=opset, input_names=["x"], dynamic_axes=axes,
            do_constant_folding=fold,
        )  # fmt: skip
        return onnx.load(path)


@cache
def exported(exporter: str, opset: int, dynamic: str, kind: type[nn.Module] = Normalisations) -> onnx.ModelProto:
    """The module as the exporter writes it; read it, do not change it."""
    torch.manual_seed(0)
    x = torch.from_numpy(images((2, 6, 5) if kind is Normalisations else (2, 67, 75)))
    with quiet():
        if exporter == "dynamo":
            return exported_by_dynamo(kind().eval(), x, opset, dynamic)
        return exported_by_torchscript(kind().eval(), x, opset, dynamic, fold=exporter == "torchscript")


def optimized(proto: onnx.ModelProto, directory: Path) -> onnx.ModelProto:
    """As ONNX Runtime saves it after its basic optimisations."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(directory / "optimized.onnx")
    onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return onnx.load(options.optimized_model_filepath)


def by_onnxsim(proto: onnx.ModelProto, directory: Path) -> onnx.ModelProto:
    with quiet():
        simplified: onnx.ModelProto = pytest.importorskip("onnxsim").simplify(proto)[0]
    return simplified


def by_onnxslim(proto: onnx.ModelProto, directory: Path) -> onnx.ModelProto:
    with quiet():
        slim: onnx.ModelProto = pytest.importorskip("onnxslim").slim(proto)
    return slim


def converted(proto: onnx.ModelProto, directory: Path) -> onnx.ModelProto:
    return onnx.version_converter.convert_version(proto, 23)


def values(proto: onnx.ModelProto, x: NDArray[np.float32]) -> NDArray[np.float32]:
    model = ir.from_proto(proto)
    if proto.opset_import[0].version > NEWEST_OF_ONNXRUNTIME:
        if "LRN" not in operators(model):
            results = ReferenceEvaluator(proto).run(None, {proto.graph.input[0].name: x})
            assert isinstance(results, list)
            return np.asarray(results[0])
        # The reference's own LRN (onnx 1.23) takes the batch for the channels.
        model.opset_imports[""] = NEWEST_OF_ONNXRUNTIME
    return evaluate(model, x)


def assert_recovered(proto: onnx.ModelProto, dynamic: str) -> None:
    """Both by the pass alone and as part of `normalise`."""
    direct = inferred_copy(ir.from_proto(proto))
    found = recover_lrn(direct)
    assert tuple(one.spec for one in found) == SPECS
    normalised = normalise(ir.from_proto(proto))
    assert tuple(one.spec for one in normalised.recovered) == SPECS
    for model in (direct, normalised.model):
        kinds = Counter(operators(model))
        assert kinds["LRN"] == len(SPECS)
        assert set(kinds) <= {"Conv", "LRN", "Mul", "Add", "Relu", "Constant"}, "nothing of the chains is left"
        for sizes in SIZES[dynamic]:
            x = images(sizes)
            np.testing.assert_allclose(values(ir.to_proto(model), x), values(proto, x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("exporter", "opset", "dynamic"), EXPORTS)
def test_every_export_is_recovered(exporter: str, opset: int, dynamic: str) -> None:
    proto = exported(exporter, opset, dynamic)
    assert proto.opset_import[0].version == opset
    assert "LRN" not in {node.op_type for node in proto.graph.node}
    assert_recovered(proto, dynamic)


@pytest.mark.parametrize("simplify", [optimized, by_onnxsim, by_onnxslim, converted], ids=lambda one: one.__name__)
@pytest.mark.parametrize(("exporter", "opset", "dynamic"), SIMPLIFIED)
def test_what_simplifiers_make_of_it_is_recovered(
    exporter: str,
    opset: int,
    dynamic: str,
    simplify: Callable[[onnx.ModelProto, Path], onnx.ModelProto],
    tmp_path: Path,
) -> None:
    copy = onnx.ModelProto()
    copy.CopyFrom(exported(exporter, opset, dynamic))
    assert_recovered(simplify(copy, tmp_path), dynamic)


@pytest.mark.parametrize(("exporter", "opset"), [("dynamo", 18), ("torchscript", 17)])
def test_sides_that_strides_and_pools_compute_are_recovered(exporter: str, opset: int) -> None:
    proto = exported(exporter, opset, "image", Strided)
    model = normalise(ir.from_proto(proto)).model
    assert operators(model) == ["Conv", "Relu", "LRN", "MaxPool"] * 2
    for sizes in ((2, 67, 75), (1, 90, 64)):
        x = images(sizes)
        np.testing.assert_allclose(evaluate(model, x), values(proto, x), rtol=1e-5, atol=1e-6)
