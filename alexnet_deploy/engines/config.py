"""The one place where an option becomes a call to the builder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from alexnet_deploy.errors import EngineError
from alexnet_deploy.specs import Precision

if TYPE_CHECKING:
    from alexnet_deploy.engines.options import EngineOptions

_HARDWARE = {"ampere+": "AMPERE_PLUS", "same-sm": "SAME_COMPUTE_CAPABILITY"}


def config_from_options(trt: Any, builder: Any, network: Any, options: EngineOptions) -> Any:
    """A builder configuration.

    Args:
        trt: TensorRT or TensorRT-RTX.
        builder: Makes the configuration and the profiles.
        network: Whose input gets the batch profiles.
        options: Resolved for this backend.

    Raises:
        EngineError: The graph's image size is dynamic, or this version of the backend lacks what is asked for.
    """
    config = builder.create_builder_config()
    if options.backend == "tensorrt-rtx":
        sms = options.sms or ()
        config.num_compute_capabilities = len(sms)
        for index, sm in enumerate(sms):
            config.set_compute_capability(_member(trt.ComputeCapability, f"SM{sm}"), index)
    else:
        # Without it the engine inspector, and with it the precision proof, has names alone.
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if options.workspace_bytes is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_bytes)
    if options.optimization_level is not None:
        config.builder_optimization_level = options.optimization_level
    if options.hardware_compatible is not None:
        level = _member(trt.HardwareCompatibilityLevel, _HARDWARE[options.hardware_compatible])
        config.hardware_compatibility_level = level
    if options.precision is Precision.FP32:
        # On by default: it rounds the inputs of products to eleven bits.
        config.clear_flag(trt.BuilderFlag.TF32)
    for flag in _flags(options):
        config.set_flag(_member(trt.BuilderFlag, flag))
    _add_profiles(builder, config, network, options)
    return config


def _flags(options: EngineOptions) -> list[str]:
    # TensorRT may drop a product's bias in an engine whose weights are free; where the same weights come back it does
    # not have to, and its kernels stay the fast ones. TensorRT-RTX wants the general flag.
    identical = options.backend == "tensorrt" and options.strip and not options.refit
    wanted = {
        "VERSION_COMPATIBLE": options.version_compatible,
        "REFIT": options.refit or (options.strip and not identical),
        "REFIT_IDENTICAL": identical,
        "STRIP_PLAN": options.strip,
    }
    return [flag for flag, on in wanted.items() if on]


def _member(enum: Any, name: str) -> Any:
    member = getattr(enum, name, None)
    if member is None:
        raise EngineError(f"this version of TensorRT has no {enum.__name__}.{name}")
    return member


def _add_profiles(builder: Any, config: Any, network: Any, options: EngineOptions) -> None:
    image = network.get_input(0)
    sides = tuple(image.shape)[1:]
    if any(side < 0 for side in sides):
        raise EngineError("the graph's image size is dynamic", got=tuple(image.shape), expected="(-1, 3, S, S)")
    if image.shape[0] != -1:
        return
    for batches in options.profiles:
        profile = builder.create_optimization_profile()
        shapes = [(batch, *sides) for batch in (batches.min, batches.opt, batches.max)]
        profile.set_shape(image.name, *shapes)
        config.add_optimization_profile(profile)


def use_timing_cache(config: Any, stored: bytes) -> bool:
    """Gives the configuration a timing cache, what is `stored` where it fits this machine; says whether it does."""
    cache = config.create_timing_cache(stored)
    if stored and cache is not None and config.set_timing_cache(cache, False):
        return True
    config.set_timing_cache(config.create_timing_cache(b""), False)
    return False
