"""From a checkpoint or a foreign ONNX file to the normalised FP32 graph, compared with its source on real images."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alexnet_deploy.artifacts import read_passport
from alexnet_deploy.data.batches import load_batch
from alexnet_deploy.data.preprocessing import bytes_of_images
from alexnet_deploy.data.shipped import Split, shipped_images
from alexnet_deploy.errors import GraphError, InputError
from alexnet_deploy.limits import MAX_BATCH_BYTES, MAX_PREPROCESSING_BYTES, bounded_json, require_within
from alexnet_deploy.machine import tool_versions
from alexnet_deploy.pipeline.workspace import Made
from alexnet_deploy.progress import Voice
from alexnet_deploy.specs import Precision, Preprocessing
from alexnet_deploy.weights import CAFFE_PREPROCESSING, ModelInfo, load_model

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir as ir
    from numpy.typing import NDArray

    from alexnet_deploy.network import AlexNet
    from alexnet_deploy.normalise import Normalised

PARITY_IMAGES = 64
_MOST_BATCH = 1024


def fp32_from_source(source: Path, *, variant: str | None, preprocessing: str | None, opset: int, voice: Voice) -> Made:
    """Exports a checkpoint, or normalises a graph, and proves that nothing changed.

    Args:
        source: A checkpoint or an ONNX file.
        variant: For weight files that do not say.
        preprocessing: For ONNX files that do not say: `imagenet`, `caffe`, or a JSON file.
        opset: Of the result.
        voice: Hears what was done.

    Raises:
        ParityError: The graph computes something else than its source.
    """
    from alexnet_deploy import export, graph
    from alexnet_deploy.lrn.lowering import lrn_nodes, spec_of
    from alexnet_deploy.precision.findings import reported
    from alexnet_deploy.precision.safety import logit_findings, weight_findings

    if source.suffix == ".onnx":
        result, info, images, reference = _from_graph(source, preprocessing, opset, voice)
    else:
        network, info = load_model(str(source), variant=variant)
        result = export.onnx_from_network(network, info, opset=opset)
        images = parity_images(info.preprocessing)
        reference = _torch_logits(network, images)
    tolerance = export.PARITY_TOLERANCE[Precision.FP32]
    found = export.require_parity(
        export.parity(reference, export.run_onnx(result.model, images), tolerance), "the exported graph"
    )
    for change in result.changes:
        voice.say(f"  {change}")
    for lrn in result.recovered:
        spec = lrn.spec
        voice.say(
            f"  LRN recovered from {lrn.nodes_replaced} nodes: size {spec.size}, alpha {spec.alpha:g}, "
            f"beta {spec.beta:g}, bias {spec.bias:g}"
        )
    voice.say(f"  parity: {found.max_relative_error:.1e} of the largest output on {found.images} images")
    facts = {
        "model": info.to_json(),
        "precision": Precision.FP32.value,
        "lrn": "native",
        "opset": opset,
        # So that later stages find their artifacts again without opening the graph.
        "layers": [layer.name for layer in graph.weighted_nodes(result.model)],
        "norms": [dataclasses.asdict(spec_of(node)) for node in lrn_nodes(result.model)],
        "changes": list(result.changes),
        "lrn_recovered": [dataclasses.asdict(lrn) for lrn in result.recovered],
        "parity": found.to_json(),
        "safety": reported([*weight_findings(result.model), *logit_findings(result.model, reference)], voice),
    }
    tools = tool_versions("torch", "onnx", "onnxscript", "onnx-ir")
    return Made(data=graph.graph_bytes(result.model), facts=facts, tools=tools)


def _from_graph(
    source: Path, preprocessing: str | None, opset: int, voice: Voice
) -> tuple[Normalised, ModelInfo, NDArray[np.float32], NDArray[np.float32]]:
    from alexnet_deploy.export import run_onnx
    from alexnet_deploy.graph import info_of, input_shape, read_graph, set_info

    original = read_graph(source)
    _require_fp32(source, original)
    _require_images(source, input_shape(original))
    result = _normalised(source, original, opset)
    _require_finite(source, result.model)
    info = info_of(original) or _guessed_info(source, result.model, preprocessing, voice)
    set_info(result.model, info)
    images = parity_images(info.preprocessing, input_shape(original)[0] or 1)
    return result, info, images, run_onnx(original, images)


def _normalised(source: Path, original: ir.Model, opset: int) -> Normalised:
    """A graph may pass ONNX's checker and contradict itself: what a library then raises is said in our words."""
    from alexnet_deploy.normalise import normalise

    try:
        return normalise(original, opset=opset)
    except (ArithmeticError, LookupError, MemoryError, RuntimeError, TypeError, ValueError) as exc:
        raise GraphError(
            f"{source} cannot be brought into the common form",
            got=f"{type(exc).__name__}: {str(exc).strip().splitlines()[0] if str(exc).strip() else ''}",
            expected="a graph whose nodes, shapes and constants fit each other",
            remedy="export it again; where ONNX Runtime runs it, report it with the file",
        ) from exc


def _require_fp32(source: Path, model: ir.Model) -> None:
    """Later stages quantize and lower; a graph to which that was done already would get it twice."""
    passport = read_passport(source)
    lrn = passport.facts.get("lrn") if passport is not None else None
    integer = [node.op_type for node in model.graph if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    half = [v.name for v in model.graph.initializers.values() if v.dtype is not None and v.dtype.name in _HALF]
    if integer or half or lrn not in (None, "native"):
        raise InputError(
            f"{source} is not an FP32 graph with LRN as it stands in the papers",
            got="quantized nodes" if integer else "weights in 16 bits" if half else f"LRN lowered to {lrn}",
            expected="the FP32 graph that it was made from",
        )


def _require_finite(source: Path, model: ir.Model) -> None:
    """A NaN in a weight would show as outputs that differ, and not say where it is."""
    import numpy as np

    from alexnet_deploy.graph import constant_of, weighted_nodes

    for layer in weighted_nodes(model):
        for what, array in (("weight", layer.weight), ("bias", constant_of(layer.bias_value))):
            # Without a copy: a NaN is both the smallest and the largest value.
            if array is not None and array.size and not np.isfinite([array.min(), array.max()]).all():
                raise GraphError(
                    f"the {what} of {layer.name} in {source} holds values that are not finite",
                    got=f"values from {array.min()} to {array.max()}",
                    expected="numbers",
                    remedy="export it from weights of before the training diverged",
                )


def _require_images(source: Path, shape: tuple[int | None, ...]) -> None:
    """Preprocessing makes colour images of one square size; any other input would need another."""
    batch, channels, height, width = shape
    if batch is not None and not 0 < batch <= _MOST_BATCH:
        raise InputError(
            f"{source} has a batch that cannot be tried",
            got=batch,
            expected=f"a dynamic one, or 1 to {_MOST_BATCH}",
            remedy="export it with a dynamic batch",
        )
    if height is None or width is None:
        raise InputError(f"{source} has a dynamic image size", got=_sides(shape), expected="a fixed height and width")
    if channels != 3 or height != width:
        raise InputError(
            f"{source} does not read square colour images",
            got=_sides(shape),
            expected="one input of shape (N, 3, S, S)",
        )


def _sides(shape: tuple[int | None, ...]) -> str:
    return "x".join("?" if side is None else str(side) for side in shape)


_HALF = ("FLOAT16", "BFLOAT16")


def _guessed_info(source: Path, model: ir.Model, preprocessing: str | None, voice: Voice) -> ModelInfo:
    from alexnet_deploy.graph import input_shape

    side = input_shape(model)[2]
    assert side is not None
    common: dict[str, Any] = {"image_size": side, "resize_size": max(side, 256)}
    caffe = any(name.startswith("conv1_w") for name in model.graph.initializers)
    chosen = preprocessing or ("caffe" if caffe else "imagenet")
    if preprocessing is None:
        voice.warn(
            f"{source.name} does not say how its images are preprocessed; assuming {chosen}'s way "
            "(export --preprocessing names another)"
        )
    if chosen == "caffe":
        found = Preprocessing(**(common | CAFFE_PREPROCESSING))
    elif chosen == "imagenet":
        found = Preprocessing(**common)
    else:
        found = _preprocessing_from_file(Path(chosen))
    return ModelInfo(name=source.stem, network=None, preprocessing=found)


def parity_images(preprocessing: Preprocessing, multiple: int = 1) -> NDArray[np.float32]:
    """The first shipped evaluation images, preprocessed for a model; a whole number of batches of `multiple`.

    Raises:
        InputError: A batch would be of more images than there are, or larger than `MAX_BATCH_BYTES`.
    """
    import numpy as np

    images = shipped_images(Split.EVALUATION)
    require_within("the graph's fixed batch", multiple, len(images), "images")
    require_within("the graph's fixed batch", bytes_of_images(multiple, preprocessing), MAX_BATCH_BYTES, "bytes")
    most = min(PARITY_IMAGES, MAX_BATCH_BYTES // bytes_of_images(1, preprocessing))
    count = max(1, most // multiple) * multiple
    return load_batch(images, np.arange(count), preprocessing).images


def _torch_logits(network: AlexNet, images: NDArray[np.float32]) -> NDArray[np.float32]:
    import torch

    with torch.inference_mode():
        logits: NDArray[np.float32] = network(torch.from_numpy(images)).numpy()
    return logits


def _preprocessing_from_file(path: Path) -> Preprocessing:
    try:
        return Preprocessing.from_json(bounded_json(path, MAX_PREPROCESSING_BYTES))
    except (OSError, ValueError) as exc:
        raise InputError(
            f"{path} cannot be read as preprocessing", got=exc, expected="imagenet, caffe, or a JSON file"
        ) from exc
