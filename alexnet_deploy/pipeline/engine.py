"""From a target's graph to an engine with the proof of its precision in its passport."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alexnet_deploy.engines.options import EngineOptions, sm_label
from alexnet_deploy.limits import MAX_TIMING_CACHE_BYTES, bounded_bytes
from alexnet_deploy.machine import cuda_driver_version, gpu_name
from alexnet_deploy.optional import tensorrt_version
from alexnet_deploy.pipeline.workspace import Artifact, Made, Workspace
from alexnet_deploy.specs import Lowering, fingerprint

if TYPE_CHECKING:
    from alexnet_deploy.engines.build import BuiltEngine


@dataclass(frozen=True, kw_only=True)
class EngineRequest:
    """An engine to be made in a workspace.

    Attributes:
        options: What to build, with backend and SMs in numbers.
        graph: The target's graph.
        layers: Names of the model's convolutions and fully connected layers; quantization keeps them.
        norms: How many LRNs the model has.
        allow_float: Keep an engine of which a layer did not get the precision.
        source: The model's file name, for the command that builds the engine anew.
        timing_cache: File of TensorRT's timing cache.
    """

    options: EngineOptions
    graph: Artifact
    layers: tuple[str, ...]
    norms: int
    allow_float: bool = False
    source: str = "shipped"
    timing_cache: Path | None = None


def engine_name(stem: str, options: EngineOptions) -> str:
    """File name of an engine in the work directory: another for what is not built by default."""
    plugin = ".lrn-plugin" if options.plugin else ""
    usual = EngineOptions(precision=options.precision, backend=options.backend, sms=options.sms, plugin=options.plugin)
    other = "" if options == usual else f".{fingerprint(options.to_json())[:6]}"
    return f"{stem}.{options.precision.value}.{options.backend}.{sm_label(options.sms)}{plugin}{other}.engine"


def engine_in_workspace(workspace: Workspace, path: Path, asked: EngineRequest) -> Artifact:
    """Builds an engine, or finds it again: the same graph, options and versions give the same engine.

    Raises:
        PrecisionProofError: A layer did not get the precision, and `allow_float` is not set.
        EngineError: The builder failed.
    """
    version = tensorrt_version(asked.options.backend)
    request = {**asked.options.to_json(), "version": version, "allow_float": asked.allow_float}
    return workspace.make(path, "engine", request, [asked.graph.path], lambda: _made(workspace, path, asked))


def _made(workspace: Workspace, path: Path, asked: EngineRequest) -> Made:
    from alexnet_deploy.engines.build import engine_from_onnx
    from alexnet_deploy.files import write_bytes

    cache = asked.timing_cache
    built = engine_from_onnx(
        asked.graph.path.read_bytes(),
        asked.options,
        timing_cache=bounded_bytes(cache, MAX_TIMING_CACHE_BYTES) if cache is not None and cache.is_file() else None,
        log=path.with_name(path.name + ".log"),
        voice=workspace.voice,
    )
    if cache is not None and built.timing_cache and (built.cache_taken or not cache.exists()):
        write_bytes(cache, built.timing_cache)
    _prove(workspace, asked, built)
    # By the same way as admission asks for it: the distribution and the module may word it differently.
    tools = {asked.options.backend: tensorrt_version(asked.options.backend)}
    return Made(data=built.data, facts=_facts(asked, built), tools=tools)


def _prove(workspace: Workspace, asked: EngineRequest, built: BuiltEngine) -> None:
    from alexnet_deploy.engines.proof import require_plugins, require_precision

    plan, precision = built.plan, asked.options.precision.value
    keep_float = asked.graph.facts.get("keep_float", [])
    expected = [name for name in asked.layers if name not in keep_float]
    proved = sum(layer.precision == precision for layer in plan.layers)
    weights = ", ".join(f"{name} {size / 1e6:.2f} MB" for name, size in sorted(plan.weight_bytes_by_type.items()))
    workspace.voice.say(
        f"  precision proof: {proved} of {len(expected)} layers in {precision}; weights {weights or 'none'}; "
        f"{plan.reformats} kernels that only move or cast data"
        + (f"; {len(plan.plugins)} LRN plugins" if plan.plugins else "")
    )
    if not asked.allow_float:
        require_precision(plan, precision, expected)
    if asked.options.plugin:
        require_plugins(plan, asked.norms)


def _facts(asked: EngineRequest, built: BuiltEngine) -> dict[str, Any]:
    options = asked.options
    graph = asked.graph.facts
    return {
        "model": graph["model"],
        "source": asked.source,
        "precision": options.precision.value,
        "lrn": graph.get("lrn"),
        "lrn_reason": graph.get("lrn_reason"),
        "backend": options.backend,
        "options": options.to_json(),
        "device": gpu_name() if options.backend == "tensorrt" else None,
        "driver": cuda_driver_version(),
        "allow_float": asked.allow_float,
        "build_seconds": round(built.seconds, 2),
        "plan": built.plan.to_json(),
    }


def plugin_of(graph: Artifact, options: EngineOptions) -> EngineOptions:
    """Whether the engine takes the LRN plugin follows from its graph."""
    return replace(options, plugin=graph.facts.get("lrn") == Lowering.PLUGIN.value)
