"""What an engine is built for, and what no builder can do: said before anything is made. Nothing heavy is imported."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from alexnet_deploy.errors import EngineError, InputError
from alexnet_deploy.machine import gpu_sm
from alexnet_deploy.optional import tensorrt_backend, tensorrt_version
from alexnet_deploy.specs import AMPERE, RTX_SMS, Precision

DEFAULT_SMS = (86, 89, 120)
# What the compute capabilities that TensorRT-RTX builds for lack.
_LACKS = {
    75: {Precision.FP32, Precision.BF16, Precision.INT8, Precision.FP8, Precision.INT4},
    80: {Precision.FP8},
    86: {Precision.FP8},
}
# TensorRT builds for more GPUs and has kernels for more types on old ones.
_FIRST_SM_IN_TENSORRT = {Precision.BF16: 80, Precision.FP8: 89}
_WHY = {
    Precision.FP32: "its FP32 matrix products do not compile there",
    Precision.INT8: "its convolutions would be built in FP16, for every SM of the engine",
}
# What comes nearest where a precision is not to be had, the nearest first.
_NEAREST = (Precision.INT8, Precision.FP16)
HARDWARE_COMPATIBILITY = ("ampere+", "same-sm")
MAX_BATCH = 65_536
_LEVELS = range(6)


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Batch sizes that an engine takes: any from `min` to `max`, tuned for `opt`."""

    min: int = 1
    opt: int = 1
    max: int = 16

    def __post_init__(self) -> None:
        if not 1 <= self.min <= self.opt <= self.max <= MAX_BATCH:
            raise InputError(
                "the batch profile is not in order",
                got=f"min {self.min}, opt {self.opt}, max {self.max}",
                expected=f"1 <= min <= opt <= max <= {MAX_BATCH:,}",
            )

    def __str__(self) -> str:
        return f"{self.min}:{self.opt}:{self.max}"


def profile_from_text(text: str) -> Profile:
    """Parses `1:8:16`.

    Raises:
        InputError: It is not three numbers in order.
    """
    try:
        least, best, most = (int(part) for part in text.split(":"))
    except ValueError as exc:
        raise InputError("no such batch profile", got=repr(text), expected="min:opt:max, as 1:8:16") from exc
    return Profile(min=least, opt=best, max=most)


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """A request to the builder.

    Attributes:
        backend: `auto`, `tensorrt` or `tensorrt-rtx`.
        sms: GPU architectures, as 10 * major + minor. None: TensorRT builds for the GPU at hand, TensorRT-RTX for those
            of `DEFAULT_SMS` that hold the precision.
        profiles: Batch sizes; several are several optimisation profiles.
        plugin: Whether the graph's LRN nodes become our plugin; else TensorRT reads the nodes' function bodies.
        workspace_bytes: The most scratch memory that a layer may take; None leaves it to the builder.
        optimization_level: 0 to 5, of TensorRT; None leaves it to the builder.
        version_compatible: The engine carries a lean runtime and opens in later TensorRT.
        hardware_compatible: `ampere+` runs on every GPU from SM80 on, `same-sm` on all of one compute capability.
        refit: Weights can be exchanged later.
        strip: The engine leaves the weights out; they are put back from the graph when it is opened.
    """

    precision: Precision = Precision.FP16
    backend: str = "auto"
    sms: tuple[int, ...] | None = None
    profiles: tuple[Profile, ...] = (Profile(),)
    plugin: bool = False
    workspace_bytes: int | None = None
    optimization_level: int | None = None
    version_compatible: bool = False
    hardware_compatible: str | None = None
    refit: bool = False
    strip: bool = False

    def __post_init__(self) -> None:
        if not self.profiles or len(set(self.profiles)) < len(self.profiles):
            raise InputError(
                "the batch profiles are none, or two of them are alike",
                got=", ".join(map(str, self.profiles)) or "none",
                expected="one or more, each another",
            )
        if self.workspace_bytes is not None and not 1 <= self.workspace_bytes < 2**63:
            raise InputError("no such workspace", got=f"{self.workspace_bytes} bytes", expected="1 to 2**63 - 1")
        if self.optimization_level is not None and self.optimization_level not in _LEVELS:
            raise InputError("no such optimisation level", got=self.optimization_level, expected="0 to 5")
        if self.hardware_compatible not in (None, *HARDWARE_COMPATIBILITY):
            raise InputError(
                "no such hardware compatibility",
                got=self.hardware_compatible,
                expected=", ".join(HARDWARE_COMPATIBILITY),
            )

    def to_json(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        return asdict(self)


def resolved_here(options: EngineOptions) -> EngineOptions:
    """The request with backend and SMs in numbers, for what is installed and for the GPU at hand.

    Raises:
        MissingDependencyError: The backend is not installed.
        InputError: It lacks an option, or an SM the precision.
        EngineError: It takes a GPU, and there is none.
    """
    sm = gpu_sm()
    ahead = options.sms is not None and set(options.sms) != {sm}
    backend = tensorrt_backend(options.backend, ahead=ahead)
    tensorrt_version(backend)
    return resolved(options, backend, sm)


def resolved(options: EngineOptions, backend: str, local_sm: int | None) -> EngineOptions:
    """The request with backend and SMs in numbers; again gives the same.

    Args:
        options: As asked for.
        backend: `tensorrt` or `tensorrt-rtx`.
        local_sm: Architecture of the GPU at hand; None where there is none.

    Raises:
        InputError: The backend lacks an option, or an SM the precision.
        EngineError: It takes a GPU, and there is none.
    """
    if backend == "tensorrt":
        return replace(options, backend=backend, sms=(_native_sm(options, local_sm),))
    _require_rtx_has(options, local_sm)
    able = able_sms(options.precision)
    sms = tuple(sm for sm in DEFAULT_SMS if sm in able) if options.sms is None else tuple(sorted(set(options.sms)))
    for sm in sms:
        if sm not in RTX_SMS:
            raise InputError(
                f"TensorRT-RTX does not build for SM{sm}",
                expected=_listed(RTX_SMS),
                remedy="TensorRT does, on such a GPU: --backend tensorrt",
            )
        if sm not in able:
            raise _cannot_hold(sm, options.precision, able)
    return replace(options, backend=backend, sms=sms)


def _native_sm(options: EngineOptions, local_sm: int | None) -> int:
    if local_sm is None:
        raise EngineError(
            "TensorRT builds for the GPU at hand",
            got="no CUDA device",
            remedy="--backend tensorrt-rtx builds without one",
        )
    if options.sms is not None and set(options.sms) != {local_sm}:
        raise InputError(
            "TensorRT builds for the GPU at hand and no other",
            got=_listed(options.sms),
            expected=f"sm{local_sm}, or no --sm",
            remedy="--backend tensorrt-rtx builds for the GPUs it is told",
        )
    if options.hardware_compatible == "ampere+" and (local_sm < AMPERE or options.precision is Precision.FP8):
        raise InputError(
            "an engine for every GPU from SM80 on cannot be built",
            got=f"SM{local_sm}" if local_sm < AMPERE else "FP8, which SM80 and SM86 lack",
            expected="--hardware-compatible same-sm, or none",
        )
    if local_sm < _FIRST_SM_IN_TENSORRT.get(options.precision, 0):
        raise InputError(
            f"SM{local_sm} cannot hold {options.precision.value}",
            expected=f"SM{_FIRST_SM_IN_TENSORRT[options.precision]} or newer",
            remedy=f"the nearest here: --{'int8' if options.precision is Precision.FP8 else 'fp16'}",
        )
    return local_sm


def _require_rtx_has(options: EngineOptions, local_sm: int | None) -> None:
    reason = None
    if options.optimization_level is not None:
        reason = "--optimization-level: TensorRT-RTX 1.7 builds the same engine at every level"
    elif options.version_compatible:
        reason = "--version-compatible: TensorRT-RTX has no lean runtime; engines open with the version that built them"
    elif options.hardware_compatible:
        reason = "--hardware-compatible: TensorRT-RTX builds one engine for all the GPUs that --sm names"
    if reason is not None:
        raise InputError("TensorRT-RTX lacks an option", got=reason, remedy="leave it out, or use --backend tensorrt")
    if (options.refit or options.strip) and local_sm is None:
        raise EngineError(
            "TensorRT-RTX builds engines with exchangeable weights only where there is a GPU", got="no CUDA device"
        )


def _cannot_hold(sm: int, precision: Precision, able: tuple[int, ...]) -> InputError:
    nearest = next(near for near in _NEAREST if near is not precision and near not in _LACKS.get(sm, set()))
    newer = next(candidate for candidate in able if candidate > sm)
    return InputError(
        f"SM{sm} cannot hold {precision.value}",
        got=_WHY.get(precision, f"it has no {precision.value} arithmetic"),
        expected=f"one of {_listed(able)}",
        remedy=f"the nearest: --{nearest.value} --sm sm{sm} as an engine of its own, or --{precision.value} from "
        f"--sm sm{newer} on",
    )


def able_sms(precision: Precision) -> tuple[int, ...]:
    """Those that TensorRT-RTX builds the precision for."""
    return tuple(sm for sm in RTX_SMS if precision not in _LACKS.get(sm, set()))


def sms_from_text(text: str | None, precision: Precision, local_sm: int | None) -> tuple[int, ...] | None:
    """Parses `sm86,sm89`, `all` (all that hold the precision) or `native`; None stays None.

    Raises:
        InputError: An SM is unknown, or there is no GPU to be native.
    """
    if text is None:
        return None
    if text == "all":
        return able_sms(precision)
    if text == "native":
        if local_sm is None:
            raise InputError("--sm native is the GPU at hand", got="no CUDA device", expected="sm86,sm89, or all")
        return (local_sm,)
    found = []
    for part in text.replace("+", ",").split(","):
        digits = part.strip().lower().removeprefix("sm")
        if not (digits.isascii() and digits.isdigit() and 50 <= int(digits) < 1000):
            raise InputError(
                f"no such SM: {part.strip()!r}",
                expected=f"{_listed(RTX_SMS)}, all, or native",
                remedy="sm86 is GeForce 30, sm89 is GeForce 40, sm120 is GeForce 50",
            )
        found.append(int(digits))
    return tuple(sorted(set(found)))


def sm_label(sms: tuple[int, ...] | None) -> str:
    """`sm86+sm89` for file names."""
    return "+".join(f"sm{sm}" for sm in sms or ())


def _listed(sms: tuple[int, ...]) -> str:
    return ", ".join(f"sm{sm}" for sm in sms)
