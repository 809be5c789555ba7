"""The vocabulary that the stages share: frozen dataclasses and enums, standard library only."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Any, Self

from alexnet_deploy.errors import InputError


class Precision(StrEnum):
    """The type that the convolutions and fully connected layers compute in."""

    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"
    INT8 = "int8"
    FP8 = "fp8"
    INT4 = "int4"


# Those that need calibration images.
QUANTIZED = frozenset({Precision.INT8, Precision.FP8, Precision.INT4})


class Target(StrEnum):
    """Where a graph will run; it decides how quantization is written into the graph."""

    TENSORRT = "tensorrt"
    TENSORRT_RTX = "tensorrt-rtx"
    ONNXRUNTIME_CPU = "onnxruntime-cpu"
    OPENVINO = "openvino"


# Those that a machine without a GPU runs, and can therefore time and prove.
CPU_TARGETS = (Target.ONNXRUNTIME_CPU, Target.OPENVINO)


# Compute capabilities that TensorRT-RTX 1.7 can be told to build for.
RTX_SMS = (75, 80, 86, 89, 120, 121)
# How its engines begin.
RTX_MAGIC = b"vtrt"
# The first SM of the generation that TensorRT's hardware compatibility starts with.
AMPERE = 80


class Lowering(StrEnum):
    """How Local Response Normalization is written into a graph."""

    NATIVE = "native"
    BANDED = "banded"
    PLUGIN = "plugin"


class Scope(StrEnum):
    """What a measured time holds; results of different scopes are never compared.

    For a runtime on the CPU there is nothing to copy: its compute is its compute and copies.
    """

    COMPUTE = "compute"
    COPIES = "compute+copies"
    END_TO_END = "end-to-end"


class WeightRounding(StrEnum):
    """How a weight becomes an integer."""

    NEAREST = "nearest"
    GPTQ = "gptq"


@dataclass(frozen=True, kw_only=True)
class RoundingOptions:
    """How the weights of an int8 graph are rounded; all but plain rounding looks at calibration images.

    The defaults are what measured best (docs/int8.md).

    Attributes:
        rounding: GPTQ lets later weights make up for the errors of earlier ones.
        bias_correction: Move each channel's bias by what rounding its weights moves its mean output.
        weight_thresholds: Saturate a channel's largest weights where that costs the output less than coarser steps.
    """

    rounding: WeightRounding = WeightRounding.GPTQ
    bias_correction: bool = True
    weight_thresholds: bool = False

    @property
    def needs_images(self) -> bool:
        """Whether weights depend on what the layers read."""
        return self != PLAIN_ROUNDING


PLAIN_ROUNDING = RoundingOptions(rounding=WeightRounding.NEAREST, bias_correction=False)


@dataclass(frozen=True, kw_only=True)
class GraphOptions:
    """How far a target's graph or engine may differ from what was asked for.

    Attributes:
        measure: Choose the lowering of LRN by timing it here, where the target can be timed.
        allow_float: Keep an int8 graph or engine of which a layer is computed in float.
        rounding: Of int8: how weights are rounded.
        place: Of int8: choose where to quantize by timing, where the target can be timed.
        max_drop: Of int8: the largest loss of top-1, as a fraction of the guard images; layers go back to float until
            it holds. None quantizes every layer, whatever it costs.
    """

    measure: bool = False
    allow_float: bool = False
    max_drop: float | None = None
    rounding: RoundingOptions = RoundingOptions()
    place: bool = False


class Interpolation(StrEnum):
    """How an image is resampled; the filters are Pillow's, which antialias when they shrink."""

    NEAREST = "nearest"
    BILINEAR = "bilinear"
    BICUBIC = "bicubic"


class Resize(StrEnum):
    """`stretch` resizes to the network's square; `shorter-side` keeps the aspect and crops the centre."""

    STRETCH = "stretch"
    SHORTER_SIDE = "shorter-side"


@dataclass(frozen=True, kw_only=True)
class LrnSpec:
    """Local Response Normalization across channels, in ONNX's terms: `alpha` is divided by `size`.

    `y[c] = x[c] / (bias + alpha / size * sum(x[i]**2 for i in window(c)))**beta`, where the window of an odd
    size is centred on the channel and cut off at the first and the last one (Krizhevsky et al. 2012, section
    3.3; ONNX operator LRN; Caffe and torch agree).
    """

    size: int = 5
    alpha: float = 1e-4
    beta: float = 0.75
    bias: float = 1.0


# Far from what FP32 holds, so that no image becomes infinite.
LARGEST_FACTOR = 1e6


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """From an image to the network's input, in one description that travels with the weights.

    The steps, in order: to three channels (a grey image is repeated), resize, centre crop to
    `(image_size, image_size)`, channel order, multiply by `scale`, subtract `mean`, divide by `std`.
    """

    image_size: int = 224
    resize: Resize = Resize.SHORTER_SIDE
    resize_size: int = 256
    interpolation: Interpolation = Interpolation.BILINEAR
    channel_order: str = "rgb"
    scale: float = 1 / 255
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        if not 1 <= self.image_size <= 4096 or not self.image_size <= self.resize_size <= 8192:
            raise InputError(
                "preprocessing has sizes that do not fit",
                got=f"image_size {self.image_size}, resize_size {self.resize_size}",
                expected="1 <= image_size <= 4096 and image_size <= resize_size <= 8192",
            )
        if self.channel_order not in ("rgb", "bgr") or not all(s > 0 for s in self.std):
            raise InputError(
                "preprocessing has a channel order or a standard deviation that cannot be",
                got=f"channel_order {self.channel_order!r}, std {self.std}",
                expected="'rgb' or 'bgr', and positive std",
            )
        # A NaN is within no bound.
        bounded = all(abs(number) <= LARGEST_FACTOR for number in (self.scale, *self.mean, *self.std))
        if not (bounded and self.scale > 0 and min(self.std) >= 1 / LARGEST_FACTOR):
            raise InputError(
                "preprocessing has a number that makes no image",
                got=f"scale {self.scale}, mean {self.mean}, std {self.std}",
                expected=f"a positive scale, and no number beyond {LARGEST_FACTOR:g}; std from {1 / LARGEST_FACTOR:g}",
            )

    def to_json(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """Reads what `to_json` wrote.

        Raises:
            InputError: A field is missing, unknown or of the wrong type.
        """
        try:
            known = {field.name for field in fields(cls)}
            if set(values) != known:
                raise ValueError(f"fields {sorted(set(values) ^ known)} are missing or unknown")
            return cls(
                image_size=int(values["image_size"]),
                resize=Resize(values["resize"]),
                resize_size=int(values["resize_size"]),
                interpolation=Interpolation(values["interpolation"]),
                channel_order=str(values["channel_order"]),
                scale=float(values["scale"]),
                mean=_three_floats(values["mean"]),
                std=_three_floats(values["std"]),
            )
        except (TypeError, ValueError, KeyError, AttributeError, OverflowError) as exc:
            raise InputError("the preprocessing description cannot be read", got=exc) from exc

    @property
    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits that change when any step does."""
        return fingerprint(self.to_json())


def _three_floats(values: Any) -> tuple[float, float, float]:
    red, green, blue = (float(value) for value in values)
    return red, green, blue


def fingerprint(values: Any) -> str:
    """Sixteen hexadecimal digits of the SHA-256 of `values` as canonical JSON."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()[:16]
