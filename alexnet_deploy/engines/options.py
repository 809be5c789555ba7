"""What an engine is built for. Standard library only."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from alexnet_deploy.errors import InputError
from alexnet_deploy.specs import Precision

# Compute capabilities that TensorRT-RTX 1.7 can be told to build for, and what they lack.
RTX_SMS = (75, 80, 86, 89, 120, 121)
DEFAULT_SMS = (86, 89, 120)
_LACKS = {
    75: {Precision.FP32, Precision.BF16, Precision.INT8, Precision.FP8, Precision.INT4},
    80: {Precision.FP8},
    86: {Precision.FP8},
}
_WHY = {
    Precision.FP32: "its FP32 matrix products do not compile there",
    Precision.INT8: "its convolutions would be built in FP16, for every SM of the engine",
}


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """A request to the builder.

    Attributes:
        backend: `auto`, `tensorrt` or `tensorrt-rtx`.
        sms: GPU architectures, as 10 * major + minor; TensorRT builds for the GPU at hand instead.
        min_batch, opt_batch, max_batch: The optimisation profile.
        plugin: Whether the graph's LRN nodes become our plugin; else TensorRT reads the nodes' function bodies.
    """

    precision: Precision = Precision.FP16
    backend: str = "auto"
    sms: tuple[int, ...] = DEFAULT_SMS
    min_batch: int = 1
    opt_batch: int = 1
    max_batch: int = 16
    plugin: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.min_batch <= self.opt_batch <= self.max_batch <= 65_536:
            raise InputError(
                "the batch profile is not in order",
                got=f"min {self.min_batch}, opt {self.opt_batch}, max {self.max_batch}",
                expected="1 <= min <= opt <= max <= 65,536",
            )

    def to_json(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        return asdict(self)


def sms_from_text(text: str | None, precision: Precision) -> tuple[int, ...]:
    """Parses `sm86,sm89` or `all` (all that hold the precision); None is those of the defaults that hold it.

    Raises:
        InputError: An SM is unknown, or cannot hold the precision.
    """
    able = tuple(sm for sm in RTX_SMS if precision not in _LACKS.get(sm, set()))
    if text is None:
        return tuple(sm for sm in DEFAULT_SMS if sm in able)
    if text == "all":
        return able
    found = []
    for part in text.replace("+", ",").split(","):
        digits = part.strip().lower().removeprefix("sm")
        if not digits.isdigit() or int(digits) not in RTX_SMS:
            raise InputError(
                f"no such SM: {part.strip()!r}",
                expected=", ".join(f"sm{sm}" for sm in RTX_SMS) + ", or all",
                remedy="sm86 is GeForce 30, sm89 is GeForce 40, sm120 is GeForce 50",
            )
        if int(digits) not in able:
            raise InputError(
                f"SM{digits} cannot hold {precision.value}",
                got=_WHY.get(precision, f"it has no {precision.value} arithmetic"),
                expected=f"one of {', '.join(f'sm{sm}' for sm in able)}",
                remedy="leave it out, or build it an engine of its own with --fp16",
            )
        found.append(int(digits))
    return tuple(sorted(set(found)))


def sm_label(sms: tuple[int, ...]) -> str:
    """`sm86+sm89` for file names."""
    return "+".join(f"sm{sm}" for sm in sms)
