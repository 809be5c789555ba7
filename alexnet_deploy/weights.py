"""Weights in and out: our checkpoints, PyTorch files, torchvision's pretrained AlexNet, the ONNX zoo's files.

A checkpoint is a safetensors file, optionally compressed with zstd (`.safetensors.zst`), whose metadata holds
the `ModelInfo`. A tensor that is mostly zeros may be stored as a bit mask and its nonzero values.
"""

from __future__ import annotations

import json
import math
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from alexnet_deploy.data.shipped import shipped_folder
from alexnet_deploy.errors import InputError, WeightsError
from alexnet_deploy.files import write_bytes
from alexnet_deploy.limits import (
    MAX_CHECKPOINT_BYTES,
    MAX_CHECKPOINT_TENSORS,
    MAX_LABEL_CHARACTERS,
    json_from_text,
    require_within,
)
from alexnet_deploy.specs import Preprocessing, Resize
from alexnet_deploy.variants import (
    DEFAULT_CLASSES,
    FC_FEATURES,
    MAX_CLASSES,
    VARIANTS,
    NetworkSpec,
    layers_from_network,
    scaled,
)
from alexnet_deploy.weights_guard import checkpoint_bytes, require_plain_archive, require_stored

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from alexnet_deploy.network import AlexNet

SHIPPED_CHECKPOINT = "alexnet-fashion-mnist.safetensors.zst"
CHECKPOINT_SUFFIXES = (".safetensors", ".safetensors.zst", ".pt", ".pth")
_METADATA_KEY = "alexnet_deploy"
# Below this share of nonzero values, a bit mask and the values are smaller than the tensor, even compressed.
SPARSE_DENSITY = 0.25
_ZSTD_LEVEL = 19
# Our layer names in the order of torchvision's `features` and `classifier` modules.
_TORCHVISION_NAMES = {
    "features.0": "conv1", "features.3": "conv2", "features.6": "conv3", "features.8": "conv4",
    "features.10": "conv5", "classifier.1": "fc6", "classifier.4": "fc7", "classifier.6": "fc8",
}  # fmt: skip
# Caffe's mean pixel of ImageNet, in the order blue, green, red.
CAFFE_PREPROCESSING: dict[str, Any] = {
    "resize": Resize.STRETCH,
    "channel_order": "bgr",
    "scale": 1.0,
    "mean": (104.00699, 116.66877, 122.67892),
    "std": (1.0, 1.0, 1.0),
}


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """What has to be known of weights to use them.

    Attributes:
        name: What reports call the model.
        network: None for a foreign ONNX graph that is no member of the family.
        labels: Names of the classes; empty where they are not known.
    """

    name: str
    network: NetworkSpec | None
    preprocessing: Preprocessing
    labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for text in (self.name, *self.labels):
            require_within("a name or a label of the model", len(text), MAX_LABEL_CHARACTERS, "characters")
        require_within("the model", len(self.labels), MAX_CLASSES, "labels")
        if self.network is None:
            return
        if self.labels and len(self.labels) != self.network.classes:
            raise InputError(
                "the labels do not fit the classes",
                got=f"{len(self.labels)} labels",
                expected=f"{self.network.classes}",
            )
        if self.preprocessing.image_size != self.network.image_size:
            raise InputError(
                "the preprocessing does not fit the network",
                got=f"images of {self.preprocessing.image_size} pixels",
                expected=f"{self.network.image_size}",
            )

    def to_json(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        return {
            "name": self.name,
            "network": self.network.to_json() if self.network else None,
            "preprocessing": self.preprocessing.to_json(),
            "labels": list(self.labels),
        }

    @classmethod
    def from_json(cls, values: Any) -> Self:
        """Reads what `to_json` wrote.

        Raises:
            InputError: A field is missing or does not fit the others.
        """
        try:
            return cls(
                name=str(values["name"]),
                network=NetworkSpec.from_json(values["network"]) if values["network"] is not None else None,
                preprocessing=Preprocessing.from_json(values["preprocessing"]),
                labels=tuple(str(label) for label in values["labels"]),
            )
        except (TypeError, KeyError) as exc:
            raise InputError("the model description cannot be read", got=repr(exc)) from exc


def imagenet_preprocessing(spec: NetworkSpec) -> Preprocessing:
    """What the weights that people bring were most likely trained with."""
    size = spec.image_size
    common: dict[str, Any] = {"image_size": size, "resize_size": max(size, 256)}
    if spec.variant in ("bvlc", "caffenet"):
        common |= CAFFE_PREPROCESSING
    return Preprocessing(**common)


def network_of(info: ModelInfo, where: str) -> NetworkSpec:
    """The network's description.

    Raises:
        WeightsError: The model is a foreign graph.
    """
    if info.network is None:
        raise WeightsError(
            f"{where} is not known to be an AlexNet",
            expected=f"a model of one of the variants {', '.join(VARIANTS)}",
            remedy="export, calibrate, build-engine and bench take such a graph; train and inspect --variant do not",
        )
    return info.network


def shipped_checkpoint() -> Path:
    """The checkpoint that ships.

    Raises:
        InputError: It is not where the package or the clone has it.
    """
    path = shipped_folder("models") / SHIPPED_CHECKPOINT
    if not path.is_file():
        raise InputError("the shipped model is missing", got=f"no {path}", remedy="check it out again, or reinstall")
    return path


def load_model(model: str, *, variant: str | None = None) -> tuple[AlexNet, ModelInfo]:
    """Opens a network with its weights, in evaluation mode.

    Args:
        model: `shipped`, `torchvision`, or the path of a checkpoint (`.safetensors`, `.safetensors.zst`, `.pt`,
            `.pth`) or of an ONNX file with the ONNX zoo's or our initializer names.
        variant: For files that do not say which variant they are.

    Raises:
        InputError: There is no such file, or it is of no known kind.
        WeightsError: The tensors do not fit the network.
    """
    from alexnet_deploy.network import AlexNet

    tensors, info = _read_model(model, variant)
    spec = network_of(info, model)
    # Before a network of the size that the file claims is made.
    _check_tensors(model, tensors, spec)
    network = AlexNet(spec)
    network.load_state_dict({name: _finite(model, name, tensor) for name, tensor in tensors.items()})
    network.eval()
    return network, info


def _read_model(model: str, variant: str | None) -> tuple[dict[str, Tensor], ModelInfo]:
    if model == "torchvision":
        return _tensors_from_torchvision()
    path = shipped_checkpoint() if model == "shipped" else Path(model).expanduser()
    if not path.is_file():
        raise InputError(
            f"there is no model {model!r}",
            got="no such file" if not path.is_dir() else "a folder",
            expected=f"shipped, torchvision, or a file that ends in {', '.join(CHECKPOINT_SUFFIXES)} or .onnx",
        )
    if path.suffix == ".onnx":
        from alexnet_deploy.zoo import tensors_from_onnx

        return tensors_from_onnx(path, variant)
    if path.name.endswith((".safetensors", ".safetensors.zst")):
        tensors, info = read_checkpoint(path)
        return (tensors, info) if info else _with_guessed_info(path, tensors, variant)
    if path.suffix in (".pt", ".pth"):
        return _with_guessed_info(path, _tensors_from_torch_file(path), variant)
    raise InputError(
        f"{path} is of no known kind",
        got=path.suffix or "no suffix",
        expected=f"{', '.join(CHECKPOINT_SUFFIXES)} or .onnx",
    )


def _check_tensors(model: str, tensors: dict[str, Tensor], spec: NetworkSpec) -> None:
    expected = _shapes_of(spec)
    got = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    wrong = sorted(name for name in expected.keys() | got.keys() if expected.get(name) != got.get(name))
    if wrong:
        first = wrong[0]
        raise WeightsError(
            f"the weights of {model} do not fit the variant {spec.variant}",
            got=f"{first} {got.get(first, 'missing')}, and {len(wrong) - 1} more that differ",
            expected=f"{first} {expected.get(first, 'absent')}",
            remedy="name another --variant, or check that the file holds this network",
        )
    for name, tensor in tensors.items():
        require_stored(model, name, tensor)


def _shapes_of(spec: NetworkSpec) -> dict[str, tuple[int, ...]]:
    """Of a network's tensors, without making one."""
    layers = [layer for layer in layers_from_network(spec) if layer.weight_shape]
    return {
        name: shape
        for layer in layers
        for name, shape in (
            (f"{layer.name}.weight", layer.weight_shape),
            (f"{layer.name}.bias", layer.weight_shape[:1]),
        )
    }


def _finite(model: str, name: str, tensor: Tensor) -> Tensor:
    """In FP32, all of it numbers."""
    import torch

    if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_complex() or tensor.is_meta:
        raise WeightsError(
            f"{name} of {model} is not a plain tensor",
            got=f"{tensor.dtype}, {tensor.layout}, on {tensor.device}",
            expected="real numbers, all of them stored",
        )
    values = tensor.float()
    # In one pass and without a copy: a NaN is both the smallest and the largest value.
    if values.numel() and not all(math.isfinite(end) for end in torch.aminmax(values.detach())):
        raise WeightsError(
            f"{name} of {model} holds values that are not finite",
            got="NaN or an infinity in FP32",
            expected="numbers",
            remedy="take a checkpoint from before the training diverged, or fetch the file again",
        )
    return values


def require_checkpoint_name(path: Path) -> None:
    """Checks that a checkpoint can have that name.

    Raises:
        InputError: It ends in something else.
    """
    if not path.name.endswith((".safetensors", ".safetensors.zst")):
        raise InputError(f"{path} cannot be a checkpoint", expected="a name in .safetensors or .safetensors.zst")


def save_checkpoint(network: AlexNet, info: ModelInfo, path: Path, *, half: bool = False) -> None:
    """Writes a checkpoint without a passport; arguments and errors as of `encoded_checkpoint`."""
    write_bytes(path, encoded_checkpoint(network, info, path, half=half))


def encoded_checkpoint(network: AlexNet, info: ModelInfo, path: Path, *, half: bool = False) -> bytes:
    """What a checkpoint of that name holds; `.zst` compresses it.

    Args:
        network: The weights.
        info: What travels with them.
        path: Ends in `.safetensors` or `.safetensors.zst`.
        half: Store FP16 values instead of FP32.

    Raises:
        InputError: The path has another suffix.
        WeightsError: A weight is not finite, or does not fit FP16.
    """
    import torch
    from safetensors.torch import save

    require_checkpoint_name(path)
    stored: dict[str, Tensor] = {}
    shapes: dict[str, list[int]] = {}
    for name, tensor in network.state_dict().items():
        values = tensor.detach().cpu().contiguous()
        values = values.half() if half else values
        if not bool(torch.isfinite(values).all()):
            raise WeightsError(
                f"{name} holds values that are not finite" + (" in FP16" if half else ""),
                remedy="keep the last good checkpoint, or store FP32",
            )
        if path.suffix == ".zst" and values.count_nonzero() < SPARSE_DENSITY * values.numel():
            shapes[name] = list(values.shape)
            stored |= _sparse_from_dense(name, values)
        else:
            stored[name] = values
    metadata = {_METADATA_KEY: json.dumps({"schema": 1, "model": info.to_json(), "sparse": shapes})}
    data: bytes = save(stored, metadata)
    if path.suffix == ".zst":
        import zstandard

        data = zstandard.ZstdCompressor(level=_ZSTD_LEVEL, write_content_size=True).compress(data)
    return data


def _sparse_from_dense(name: str, values: Tensor) -> dict[str, Tensor]:
    import numpy as np
    import torch

    flat = values.flatten()
    mask = flat != 0
    return {
        f"{name}.mask": torch.from_numpy(np.packbits(mask.numpy())),
        f"{name}.nonzero": flat[mask].contiguous(),
    }


def _dense_from_sparse(path: Path, name: str, shape: list[int], tensors: dict[str, Tensor]) -> Tensor:
    import numpy as np
    import torch

    count = math.prod(shape)
    if any(side < 0 for side in shape):
        raise WeightsError(f"{path}: the sparse tensor {name} has a shape that cannot be", got=shape)
    # A mask is an eighth of a byte for each number, and a compressed one next to nothing.
    require_within(f"{path}: the sparse tensor {name}", 4 * count, MAX_CHECKPOINT_BYTES, "bytes", WeightsError)
    packed, nonzero = tensors.pop(f"{name}.mask"), tensors.pop(f"{name}.nonzero")
    mask = torch.from_numpy(np.unpackbits(packed.numpy())[:count].astype(bool))
    fits = nonzero.dim() == 1 and mask.numel() == count and int(mask.sum()) == nonzero.numel()
    if not fits or any(side < 0 for side in shape):
        raise WeightsError(f"{path}: the sparse tensor {name} is damaged", remedy="fetch the file again")
    flat = torch.zeros(count, dtype=nonzero.dtype)
    flat[mask] = nonzero
    return flat.reshape(shape)


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], ModelInfo | None]:
    """Reads tensors and, where the metadata has it, the model's description.

    Raises:
        InputError: It is not a safetensors file, or it unpacks to more than `MAX_CHECKPOINT_BYTES`.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        data = checkpoint_bytes(path)
        tensors = load(data)
        require_within(f"the checkpoint {path}", len(tensors), MAX_CHECKPOINT_TENSORS, "tensors")
        metadata = _safetensors_metadata(data)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, MemoryError, SafetensorError) as exc:
        raise InputError(
            f"{path} cannot be read as a checkpoint", got=str(exc) or repr(exc), remedy="fetch or train it again"
        ) from exc
    if _METADATA_KEY not in metadata:
        return tensors, None
    try:
        described = json_from_text(metadata[_METADATA_KEY])
        info = ModelInfo.from_json(described["model"])
        sparse = {str(name): [int(side) for side in shape] for name, shape in described["sparse"].items()}
        total = sum(math.prod(shape) for shape in sparse.values())
        require_within(f"the sparse form of {path}", 4 * total, MAX_CHECKPOINT_BYTES, "bytes", WeightsError)
        for name, shape in sparse.items():
            tensors[name] = _dense_from_sparse(path, name, shape, tensors)
        return tensors, info
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as exc:
        raise InputError(f"{path}: its description cannot be read", got=repr(exc)) from exc


def _safetensors_metadata(data: bytes) -> dict[str, str]:
    header = json_from_text(data[8 : 8 + int.from_bytes(data[:8], "little")].decode())
    metadata: dict[str, str] = header.get("__metadata__", {})
    return metadata


def _tensors_from_torch_file(path: Path) -> dict[str, Tensor]:
    import torch

    require_plain_archive(path)
    try:
        with warnings.catch_warnings():
            # Of how torch would like files to be written, which whoever reads one cannot change.
            warnings.simplefilter("ignore")
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as exc:  # a damaged file raises whatever its bytes lead torch into
        raise InputError(
            f"{path} cannot be read as weights",
            got=str(exc).split("\n")[0],
            expected="a state dict; whole pickled modules are programs and are not opened",
            remedy="save it with torch.save(model.state_dict(), path) or as safetensors",
        ) from exc
    if isinstance(loaded, dict) and isinstance(loaded.get("state_dict"), dict):
        loaded = loaded["state_dict"]
    if not isinstance(loaded, dict) or not all(isinstance(value, torch.Tensor) for value in loaded.values()):
        raise InputError(f"{path} does not hold a state dict", got=type(loaded).__name__)
    require_within(f"the state dict of {path}", len(loaded), MAX_CHECKPOINT_TENSORS, "tensors")
    return {str(name).removeprefix("module."): value for name, value in loaded.items()}


def _with_guessed_info(
    path: Path, tensors: dict[str, Tensor], variant: str | None
) -> tuple[dict[str, Tensor], ModelInfo]:
    renamed = {_our_name(name): tensor for name, tensor in tensors.items()}
    spec = spec_from_tensors(str(path), renamed, variant)
    return renamed, ModelInfo(name=path.stem, network=spec, preprocessing=imagenet_preprocessing(spec))


def _our_name(name: str) -> str:
    layer, _, kind = name.rpartition(".")
    return f"{_TORCHVISION_NAMES.get(layer, layer)}.{kind}"


def spec_from_tensors(where: str, tensors: dict[str, Tensor], variant: str | None, image_size: int = 0) -> NetworkSpec:
    """Finds the variant, width and classes that the shapes of a state dict belong to.

    Raises:
        WeightsError: They belong to no variant, or to several and none was named.
    """
    needed = ("conv1.weight", "conv2.weight", "fc6.weight", "fc8.weight")
    if any(name not in tensors for name in needed):
        raise WeightsError(
            f"{where} does not hold an AlexNet",
            got=f"tensors {', '.join(sorted(tensors)[:4])} …" if tensors else "no tensors",
            expected=", ".join(needed),
        )
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    matches = []
    for name in [variant] if variant else list(VARIANTS):
        width = _width_from_shape(shapes["fc6.weight"])
        try:
            spec = NetworkSpec(variant=name, classes=shapes["fc8.weight"][0], width=width, image_size=image_size)
            layers = {f"{layer.name}.weight": layer.weight_shape for layer in layers_from_network(spec)}
        except (InputError, IndexError):
            continue
        if all(layers[key] == shapes[key] for key in needed):
            matches.append(spec)
    if len(matches) != 1:
        raise WeightsError(
            f"the variant of {where} cannot be told from its shapes",
            got=f"conv1 {shapes['conv1.weight']}, conv2 {shapes['conv2.weight']}, fc6 {shapes['fc6.weight']}",
            expected="one of " + ", ".join(spec.variant for spec in matches)
            if matches
            else f"one of {', '.join(VARIANTS)}",
            remedy="say which with --variant" if matches else None,
        )
    return matches[0]


def _width_from_shape(fc6: tuple[int, ...]) -> float:
    """The fully connected layers are the widest, and so tell the multiplier best."""
    width = fc6[0] / FC_FEATURES if fc6 else 1.0
    return width if fc6 and scaled(FC_FEATURES, width) == fc6[0] else 1.0


def _tensors_from_torchvision() -> tuple[dict[str, Tensor], ModelInfo]:
    from urllib.error import URLError

    from torchvision.models import AlexNet_Weights

    weights = AlexNet_Weights.IMAGENET1K_V1
    try:
        state: dict[str, torch.Tensor] = weights.get_state_dict(progress=False, check_hash=True)
    except (URLError, OSError, RuntimeError) as exc:
        raise InputError(
            "torchvision's AlexNet could not be fetched",
            got=exc,
            remedy="on a machine with a network, run torchvision.models.alexnet(weights='IMAGENET1K_V1') once and "
            "copy its .pth here, then: --model FILE.pth",
        ) from exc
    spec = NetworkSpec(variant="owt", classes=DEFAULT_CLASSES)
    labels = tuple(weights.meta["categories"])
    info = ModelInfo(
        name="torchvision-alexnet", network=spec, preprocessing=imagenet_preprocessing(spec), labels=labels
    )
    return {_our_name(name): tensor for name, tensor in state.items()}, info


def stem_of(path: Path) -> str:
    """File name without `.safetensors.zst` and the like."""
    return re.sub(r"(\.safetensors)?(\.zst)?(\.onnx|\.pth?)?$", "", path.name)
