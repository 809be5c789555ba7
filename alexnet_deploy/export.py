"""From a network to ONNX, with the proof that both compute the same."""

from __future__ import annotations

import contextlib
import io
import logging
import math
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from alexnet_deploy import __version__
from alexnet_deploy.errors import GraphError, ParityError
from alexnet_deploy.graph import INPUT_NAME, copy_of, graph_bytes, info_of, input_shape, set_info
from alexnet_deploy.lrn.lowering import lower_to_banded, lrn_nodes, spec_of
from alexnet_deploy.lrn.node import lower_to_plugin
from alexnet_deploy.normalise import BATCH_NAME, DEFAULT_OPSET, Normalised, normalise
from alexnet_deploy.specs import Lowering, Precision

if TYPE_CHECKING:
    import onnx_ir as ir
    from numpy.typing import NDArray

    from alexnet_deploy.network import AlexNet
    from alexnet_deploy.weights import ModelInfo

# Share of the largest logit by which outputs may differ; FP16 has 11 bits, FP32 rounds along the way.
PARITY_TOLERANCE = {Precision.FP32: 1e-4, Precision.FP16: 1e-2}
LOGITS_NAME, PROBABILITIES_NAME = "logits", "prob"


@dataclass(frozen=True, kw_only=True)
class Parity:
    """How far two graphs are apart on the same images.

    Attributes:
        max_relative_error: Largest difference of any output, as a share of the largest output.
        tolerance: What is allowed.
        images: How many images were compared.
        agreement: Share of images with the same first class.
    """

    max_relative_error: float
    tolerance: float
    images: int
    agreement: float

    def to_json(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        return {
            "max_relative_error": self.max_relative_error,
            "tolerance": self.tolerance,
            "images": self.images,
            "agreement": self.agreement,
        }


def onnx_from_network(network: AlexNet, info: ModelInfo, *, opset: int = DEFAULT_OPSET) -> Normalised:
    """Exports through `torch.onnx` and normalises: dynamic batch, standard `LRN`, textbook names, metadata.

    Args:
        network: In evaluation mode.
        info: Goes into the graph's metadata.
        opset: Version of the standard operators.

    Raises:
        GraphError: The exporter failed, or an LRN of the network was not recovered.
    """
    result = normalise(exported_by_torch(network, opset), opset=opset, rename=True)
    expected = sum(layer.op == "lrn" for layer in network.layers)
    if len(result.recovered) != expected:
        raise GraphError(
            "the exporter wrote LRN in a form that is not recognized",
            got=f"{len(result.recovered)} LRN nodes recovered",
            expected=f"{expected}",
            remedy="report it with the versions that `alexnet-deploy doctor` prints",
        )
    result.model.producer_name, result.model.producer_version = "alexnet-deploy", __version__
    result.model.graph.name = network.spec.variant
    set_info(result.model, info)
    return result


def exported_by_torch(network: AlexNet, opset: int) -> ir.Model:
    """What `torch.onnx` itself makes of a network: dynamic batch, LRN torn into nine nodes.

    Raises:
        GraphError: The exporter failed.
    """
    import onnx_ir as ir
    import torch

    spec = network.spec
    image = torch.zeros(2, 3, spec.image_size, spec.image_size)
    output = PROBABILITIES_NAME if spec.softmax else LOGITS_NAME
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            program = torch.onnx.export(
                network.eval(),
                (image,),
                dynamo=True,
                opset_version=opset,
                input_names=[INPUT_NAME],
                output_names=[output],
                dynamic_shapes=({0: torch.export.Dim(BATCH_NAME)},),
                external_data=False,
                verbose=False,
            )
        except torch.onnx.errors.OnnxExporterError as exc:
            raise GraphError("torch.onnx could not export the network", got=str(exc).split("\n")[0]) from exc
    if program is None:
        raise GraphError("torch.onnx returned no graph")
    return ir.from_proto(program.model_proto)


def lowered(model: ir.Model, lowering: Lowering, *, contain_nan: bool = False, channels_last: bool = False) -> ir.Model:
    """A copy with LRN in the wanted form, the two switches being `lower_to_banded`'s; the metadata comes along."""
    copy = copy_of(model)
    info = info_of(model)
    if lowering is Lowering.BANDED:
        lower_to_banded(copy, contain_nan=contain_nan, channels_last=channels_last)
    elif lowering is Lowering.PLUGIN:
        lower_to_plugin(copy)
    if info is not None:
        set_info(copy, info)
    return copy


def run_onnx(model: ir.Model, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Runs a graph on ONNX Runtime's CPU provider: `(N, 3, S, S)` to `(N, classes)`.

    A graph with a fixed batch is run as often as it takes; N must be a multiple of it.

    Raises:
        GraphError: ONNX Runtime does not load it, or fails on the images; the message has its words.
    """
    import onnxruntime

    if any(spec_of(node).size % 2 == 0 for node in lrn_nodes(model)):
        # ONNX Runtime's kernel refuses even windows; the banded form is held against the definition by its tests.
        model = lowered(model, Lowering.BANDED)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    size = input_shape(model)[0] or len(images)
    data = graph_bytes(model)
    try:
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        parts = [session.run(None, {name: images[at : at + size]})[0] for at in range(0, len(images), size)]
    except Exception as exc:  # its errors share no base class
        raise GraphError(
            "ONNX Runtime cannot run the graph, so that nothing can be compared with it",
            got=str(exc).strip().split("\n")[0],
            expected="standard operators, on types that they take",
        ) from exc
    return np.concatenate(parts)


def parity(reference: NDArray[np.floating], outputs: NDArray[np.floating], tolerance: float) -> Parity:
    """Compares `(N, classes)` outputs of two graphs on the same images."""
    scale = float(np.abs(reference).max())
    # Two infinities differ by a NaN, which `require_parity` refuses in words.
    with np.errstate(invalid="ignore"):
        largest = float(np.abs(reference - outputs).max())
    return Parity(
        max_relative_error=largest / max(scale, float(np.finfo(np.float32).tiny)),
        tolerance=tolerance,
        images=len(reference),
        agreement=float((reference.argmax(1) == outputs.argmax(1)).mean()),
    )


def require_parity(found: Parity, what: str) -> Parity:
    """Passes `found` on where it holds.

    Raises:
        ParityError: The difference is larger than allowed, or not a number.
    """
    if math.isfinite(found.max_relative_error) and found.max_relative_error <= found.tolerance:
        return found
    if math.isfinite(found.max_relative_error):
        remedy = "report it with the versions that `alexnet-deploy doctor` prints"
    else:
        remedy = "a number left the range of the type somewhere: use BF16 or FP32, which reach to 3e38"
    raise ParityError(
        f"{what} differs from its source; nothing was written",
        got=f"{found.max_relative_error:.2e} of the largest output, on {found.images} images",
        expected=f"at most {found.tolerance:.0e}",
        remedy=remedy,
    )
