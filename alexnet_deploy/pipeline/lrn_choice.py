"""How LRN is written for a target: by what was measured, by rule where nothing can be, or as asked."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from alexnet_deploy.specs import Lowering, LrnSpec, Precision, Target

# TensorRT's own LRN layer (ILRNLayer): odd windows from 1 to 15, a positive bias.
TENSORRT_LARGEST_WINDOW = 15


@dataclass(frozen=True, kw_only=True)
class LrnChoice:
    """A lowering in its form, and why.

    Attributes:
        contain_nan: Of the banded form: a NaN stays in its window.
        channels_last: Of the banded form: a Gemm over NHWC rows.
        reason: Goes into the passport.
    """

    lowering: Lowering
    reason: str
    contain_nan: bool = False
    channels_last: bool = False

    def facts(self) -> dict[str, Any]:
        """What the passport says, and what the graph is made anew for when it changes."""
        form = {name: True for name in ("contain_nan", "channels_last") if getattr(self, name)}
        return {"lrn": self.lowering.value, **form, "lrn_reason": self.reason}


def lrn_choice(
    target: Target,
    precision: Precision,
    norms: Iterable[LrnSpec],
    *,
    asked: Lowering | None = None,
    contain_nan: bool = False,
) -> LrnChoice:
    """The lowering for a target.

    Args:
        target: Where the graph will run.
        precision: Of its convolutions.
        norms: The graph's LRNs.
        asked: A lowering that the user insists on.
        contain_nan: Keep a NaN within its window, where the lowering has a switch for it.
    """
    lowering, reason = _by_target(target, list(norms)) if asked is None else (asked, "asked for")
    banded = lowering is Lowering.BANDED
    integers = precision is Precision.INT8 and target is Target.ONNXRUNTIME_CPU
    return LrnChoice(
        lowering=lowering,
        reason=reason,
        contain_nan=banded and contain_nan,
        channels_last=banded and integers and not contain_nan,
    )


def _by_target(target: Target, norms: list[LrnSpec]) -> tuple[Lowering, str]:
    if target is Target.ONNXRUNTIME_CPU:
        return Lowering.BANDED, "measured: ONNX Runtime's LRN kernel calls a scalar pow for every element"
    even = [norm.size for norm in norms if norm.size % 2 == 0]
    if target is Target.OPENVINO and even:
        return Lowering.BANDED, f"OpenVINO's LRN kernel sums one channel too few in even windows, and here is {even[0]}"
    if target is Target.OPENVINO:
        return Lowering.NATIVE, "measured: OpenVINO's own LRN kernel is no slower than the banded form"
    unfit = [norm.size for norm in norms if norm.size % 2 == 0 or norm.size > TENSORRT_LARGEST_WINDOW]
    if unfit:
        return Lowering.PLUGIN, f"by rule: TensorRT's own LRN takes odd windows to 15, and here is one of {unfit[0]}"
    return Lowering.NATIVE, "by rule: TensorRT's own LRN takes these windows; the plugin was not timed against it"
