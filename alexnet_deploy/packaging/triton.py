"""`<repository>/<model>` for Triton Inference Server: the artifact, its configuration, labels and preprocessing.

What each backend takes was read in its own sources and documentation (releases around 26.07); no server has loaded what
is written here. docs/triton.md says what was checked, and against what.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from alexnet_deploy import __version__
from alexnet_deploy.artifacts import Passport, passport_path, require_passport
from alexnet_deploy.bench.documents import read_bench
from alexnet_deploy.engines.options import EngineOptions
from alexnet_deploy.errors import ArtifactError, EngineError, InputError
from alexnet_deploy.files import json_bytes
from alexnet_deploy.packaging.config import (
    DynamicBatching,
    Instances,
    ModelConfig,
    TensorConfig,
    WarmUp,
    config_text,
    require_model_name,
)
from alexnet_deploy.packaging.ports import (
    CONTRIB_DOMAIN,
    Port,
    Ports,
    ports_of_engine,
    ports_of_graph,
    require_every_batch,
)
from alexnet_deploy.packaging.repository import Content, Written, write_model
from alexnet_deploy.packaging.tuning import Tuning, default_tuning, measured_rows, tuning_from_bench
from alexnet_deploy.pipeline.stages import Deployment
from alexnet_deploy.specs import Lowering, Precision, Target
from alexnet_deploy.weights import ModelInfo

_VERSION = "1"
_LABELS, _PREPROCESSING, _CONFIG = "labels.txt", "preprocessing.json", "config.pbtxt"
# Of parameters that are ours, so that no backend takes one for its own.
_OURS = "alexnet_deploy."


@dataclass(frozen=True, kw_only=True)
class Backend:
    """A runtime as Triton has it.

    Attributes:
        name: Of the backend.
        platform: Where it has one.
        filename: Of the artifact.
        kind: Of the instances.
        target: Whose graph it runs.
        precisions: That it holds, the default first.
        pads: Whether every request is computed as a batch of the largest size.
    """

    name: str
    platform: str | None
    filename: str
    kind: str
    target: Target
    precisions: tuple[Precision, ...]
    pads: bool = False


BACKENDS = {
    "onnxruntime-cpu": Backend(
        name="onnxruntime",
        platform="onnxruntime_onnx",
        filename="model.onnx",
        kind="KIND_CPU",
        target=Target.ONNXRUNTIME_CPU,
        precisions=(Precision.FP32, Precision.INT8),
    ),
    "onnxruntime-cuda": Backend(
        name="onnxruntime",
        platform="onnxruntime_onnx",
        filename="model.onnx",
        kind="KIND_GPU",
        target=Target.TENSORRT,
        precisions=(Precision.FP32, Precision.FP16),
    ),
    "tensorrt": Backend(
        name="tensorrt",
        platform="tensorrt_plan",
        filename="model.plan",
        kind="KIND_GPU",
        target=Target.TENSORRT,
        precisions=(
            Precision.FP16, Precision.FP32, Precision.BF16, Precision.INT8, Precision.FP8, Precision.INT4,
        ),
    ),
    "openvino": Backend(
        name="openvino",
        platform=None,
        filename="model.onnx",
        kind="KIND_CPU",
        target=Target.OPENVINO,
        precisions=(Precision.FP32, Precision.BF16, Precision.INT8),
        pads=True,
    ),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class PackageOptions:
    """What to package, and for whom.

    Attributes:
        runtime: One of `BACKENDS`.
        precision: Of the artifact; the backend's first where None.
        artifact: A file that the user named, with its passport; made in the work directory where None.
        bench: A document that `bench` wrote, of the same artifact.
        name: Of the model; from the artifact where None.
        max_batch: The largest batch; from the bench or the artifact where None.
        force: Replace what somebody else put there.
    """

    runtime: str = "onnxruntime-cpu"
    precision: Precision | None = None
    artifact: Path | None = None
    bench: Path | None = None
    name: str | None = None
    max_batch: int | None = None
    force: bool = False

    def __post_init__(self) -> None:
        if self.runtime not in BACKENDS:
            raise InputError("no such runtime for Triton", got=self.runtime, expected=", ".join(BACKENDS))
        held = BACKENDS[self.runtime].precisions
        if self.precision is not None and self.precision not in held:
            raise InputError(
                f"{self.runtime} does not hold that precision", got=self.precision.value, expected=", ".join(held)
            )
        if self.max_batch is not None and self.max_batch < 1:
            raise InputError("no such batch", got=f"--max-batch {self.max_batch}", expected="1 or more")
        if self.name is not None:
            require_model_name(self.name)

    @property
    def backend(self) -> Backend:
        """As Triton has the runtime."""
        return BACKENDS[self.runtime]

    @property
    def wanted(self) -> Precision:
        """The precision, said or not."""
        return self.precision or self.backend.precisions[0]


@dataclass(frozen=True, kw_only=True)
class Source:
    """The artifact that is packaged."""

    path: Path
    passport: Passport
    info: ModelInfo
    ports: Ports


@dataclass(frozen=True, kw_only=True)
class Package:
    """A model in a repository."""

    written: Written
    source: Source
    config: ModelConfig
    tuning: Tuning

    def to_json(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        ports = {"input": self.source.ports.input, "output": self.source.ports.output}
        return {
            "schema": 1,
            "format": "triton",
            "path": str(self.written.folder),
            "repository": str(self.written.folder.parent),
            "reused": self.written.reused,
            "put_aside": str(self.written.aside) if self.written.aside else None,
            "model": self.config.name,
            "backend": self.config.backend,
            "artifact": {"path": str(self.source.path), "sha256": self.source.passport.sha256},
            **{name: _port_json(port) for name, port in ports.items()},
            "tuning": self.tuning.to_json(),
            "remarks": list(self.config.remarks),
        }


def triton_model(deployment: Deployment, repository: Path, options: PackageOptions) -> Package:
    """Makes the artifact where it is missing, and writes the model's folder.

    Args:
        deployment: The model.
        repository: The folder that `tritonserver --model-repository` is given.
        options: What to package.

    Raises:
        InputError: The options contradict the artifact or the bench, or something else is where the model should go.
        GraphError, EngineError: The backend cannot run the artifact.
        ArtifactError: A file's passport does not match it, or the folder cannot be written.
    """
    document = None if options.bench is None else read_bench(options.bench)
    source = _named_source(options.artifact, options) if options.artifact else _made_source(deployment, options)
    tuning = _tuning(source, document, options)
    stem = source.path.name.split(".")[0] if options.artifact else deployment.stem
    name = options.name or _model_name(stem, options)
    remarks = _remarks(source, tuning, options)
    config = _config(name, source, tuning, remarks, options)
    known = {
        "kind": "triton",
        "made_by": f"alexnet-deploy {__version__}",
        "artifact": {"file": source.path.name, "sha256": source.passport.sha256},
        "runtime": options.runtime,
        "precision": options.wanted.value,
        "tuning": tuning.to_json(),
    }
    files = _files(source, config)
    voice = deployment.workspace.voice
    written = write_model(repository / name, files, known, force=options.force, voice=voice)
    for remark in remarks:
        voice.say(f"  {remark}")
    return Package(written=written, source=source, config=config, tuning=tuning)


def _made_source(deployment: Deployment, options: PackageOptions) -> Source:
    """Through the stages, as `export` and `build-engine` would."""
    backend, precision = options.backend, options.wanted
    if options.runtime == "tensorrt":
        engine = EngineOptions(precision=precision, backend="tensorrt")
        return _source(deployment.engine(engine).path, options)
    # bf16 of OpenVINO is a hint over the FP32 graph.
    graph_precision = Precision.FP32 if precision is Precision.BF16 else precision
    artifact = deployment.graph(graph_precision, backend.target)
    if artifact.facts.get("lrn") == Lowering.PLUGIN.value:
        artifact = deployment.graph(graph_precision, backend.target, lowering=Lowering.BANDED)
    return _source(artifact.path, options)


def _named_source(path: Path, options: PackageOptions) -> Source:
    source = _source(path, options)
    facts, wanted = source.passport.facts, options.wanted
    stored = Precision.FP32 if options.runtime == "openvino" and wanted is Precision.BF16 else wanted
    target = facts.get("target") or facts.get("backend")
    if facts.get("precision") != stored.value or target not in (None, options.backend.target.value):
        raise InputError(
            f"{path.name} is not what was asked for",
            got=f"{facts.get('precision')} for {target or 'any target'}",
            expected=f"{stored.value} for {options.backend.target.value}",
            remedy="name its --runtime and --precision, or leave --artifact out",
        )
    return source


def _source(path: Path, options: PackageOptions) -> Source:
    passport = require_passport(path, because="says which model it is")
    info = ModelInfo.from_json(passport.facts.get("model"))
    if options.runtime == "tensorrt":
        _require_servable(path, passport)
        ports = ports_of_engine(path, passport)
    else:
        if passport.kind != "onnx":
            raise InputError(f"{path.name} is no graph", got=passport.kind, expected="an ONNX file")
        ports = ports_of_graph(path, domains=(CONTRIB_DOMAIN,) if options.backend.name == "onnxruntime" else ())
    if info.labels and len(info.labels) != ports.classes:
        raise ArtifactError(
            f"the labels in the passport of {path.name} do not fit its output",
            got=f"{len(info.labels)} labels",
            expected=f"{ports.classes}",
            remedy="make the artifact again",
        )
    if any(label.splitlines() != [label] for label in info.labels):
        raise ArtifactError("a label is empty or ends a line", expected="a line each, as a file of labels has them")
    return Source(path=path, passport=passport, info=info, ports=ports)


def _require_servable(path: Path, passport: Passport) -> None:
    """Triton's backend opens plans of TensorRT, with their weights, and plugins from shared libraries alone."""
    options = passport.facts.get("options")
    asked = options if isinstance(options, dict) else {}
    backend = passport.facts.get("backend")
    if passport.kind != "engine" or backend != "tensorrt":
        raise EngineError(
            f"{path.name} is no TensorRT engine, and Triton opens no other",
            got=backend or passport.kind,
            expected="what build-engine --backend tensorrt makes",
            remedy="build-engine --backend tensorrt on the card that will serve it",
        )
    for name, why in (
        ("plugin", "has our LRN plugin, which is Python, and the server loads plugins from shared libraries"),
        ("strip", "has no weights, and the server does not put them back"),
    ):
        if asked.get(name):
            remedy = "build it with --lrn native" if name == "plugin" else "build it without --strip"
            raise EngineError(f"{path.name} {why}", remedy=remedy)


def _tuning(source: Source, document: dict[str, Any] | None, options: PackageOptions) -> Tuning:
    ports, backend = source.ports, options.backend
    if ports.least > 1 and not ports.fixed:
        raise EngineError(
            f"{source.path.name} takes no single image",
            got=f"batches from {ports.least}",
            expected="batches from 1",
            remedy="build it with a --profile that begins with 1",
        )
    if document is None:
        found = default_tuning(ports, pads=backend.pads, most=options.max_batch)
    else:
        measured = measured_rows(document, options.runtime, options.wanted, source.passport.sha256)
        found = tuning_from_bench(measured, ports, pads=backend.pads, most=options.max_batch)
    require_every_batch(ports, found.max_batch, source.path.name)
    return found


def _model_name(stem: str, options: PackageOptions) -> str:
    """From the artifact's stem, which may hold anything."""
    plain = re.sub(r"[^A-Za-z0-9_-]+", "-", stem).strip("-") or "model"
    return f"{plain[:60]}-{options.wanted.value}-{options.runtime}"


def _remarks(source: Source, tuning: Tuning, options: PackageOptions) -> tuple[str, ...]:
    found = [f"{source.path.name}, sha256 {source.passport.sha256}", *tuning.reasons]
    asked = source.passport.facts.get("options", {})
    if options.runtime == "tensorrt":
        version = source.passport.tools.get("tensorrt", "an unknown version")
        found.append(f"built by TensorRT {version}: the server has to have the same")
        if asked.get("version_compatible"):
            found.append("or a later one, started with --backend-config=tensorrt,version-compatible=true")
    if options.runtime == "openvino" and options.wanted is not Precision.BF16:
        found.append(
            "on a CPU with bf16 OpenVINO computes float layers in bf16; the backend has no way to say otherwise"
        )
    if not source.info.labels:
        found.append("the model's classes have no names, so there are no labels")
    return tuple(found)


def _config(
    name: str, source: Source, tuning: Tuning, remarks: tuple[str, ...], options: PackageOptions
) -> ModelConfig:
    backend, ports = options.backend, source.ports
    batched = tuning.max_batch > 0
    image, logits = (_tensor(port, batched=batched) for port in (ports.input, ports.output))
    batching = DynamicBatching(preferred=tuning.preferred, queue_delay_us=tuning.queue_delay_us)
    # No batch would be large enough for the others, which take memory all the same.
    usable = tuple(index for index, (least, _, _) in enumerate(ports.profiles) if least <= max(tuning.max_batch, 1))
    profiles = usable if len(ports.profiles) > 1 else ()
    cuda = {"use_tf32": "0"} if options.runtime == "onnxruntime-cuda" and options.wanted is Precision.FP32 else {}
    return ModelConfig(
        name=name,
        backend=backend.name,
        platform=backend.platform,
        filename=backend.filename,
        max_batch=tuning.max_batch,
        input=image,
        output=replace(logits, labels=_LABELS if source.info.labels else None),
        instances=Instances(kind=backend.kind, count=tuning.instances, profiles=profiles),
        batching=batching if tuning.batches else None,
        warm_ups=_warm_ups(ports, tuning),
        cuda_options=cuda,
        parameters=_backend_parameters(tuning, options) | _our_parameters(source, options),
        remarks=remarks,
    )


def _tensor(port: Port, *, batched: bool) -> TensorConfig:
    return TensorConfig(name=port.name, data_type=port.data_type, dims=port.shape[1:] if batched else port.shape)


def _warm_ups(ports: Ports, tuning: Tuning) -> tuple[WarmUp, ...]:
    """A single image, and the batch that is to come most often."""
    image = ports.input.shape[1:]
    if tuning.max_batch == 0:
        return (WarmUp(batch=1, dims=(ports.least, *image)),)
    often = tuning.preferred or tuning.max_batch
    return tuple(WarmUp(batch=batch, dims=image) for batch in sorted({1, often}))


def _backend_parameters(tuning: Tuning, options: PackageOptions) -> dict[str, str]:
    if options.runtime == "onnxruntime-cpu":
        return {} if tuning.threads is None else {"intra_op_thread_count": str(tuning.threads)}
    if options.runtime != "openvino":
        return {}
    hint = "THROUGHPUT" if tuning.instances > 1 else "LATENCY"
    found = {"PERFORMANCE_HINT": hint, "NUM_STREAMS": str(tuning.instances)}
    if tuning.threads is not None:
        found["INFERENCE_NUM_THREADS"] = str(tuning.threads)
    if options.wanted is Precision.BF16:
        found["HINT_BF16"] = "YES"
    if tuning.max_batch > 0:
        found["ENABLE_BATCH_PADDING"] = "YES"
    return found


def _our_parameters(source: Source, options: PackageOptions) -> dict[str, str]:
    """What a client can ask the server for: which artifact this is, and what an image goes through before it."""
    return {
        f"{_OURS}version": __version__,
        f"{_OURS}model": source.info.name,
        f"{_OURS}precision": options.wanted.value,
        f"{_OURS}artifact_sha256": source.passport.sha256,
        f"{_OURS}preprocessing": json.dumps(source.info.preprocessing.to_json(), sort_keys=True),
    }


def _files(source: Source, config: ModelConfig) -> Mapping[str, Content]:
    artifact = f"{_VERSION}/{config.filename}"
    passport = passport_path(source.path)
    found: dict[str, Content] = {
        artifact: source.path,
        # Under the artifact's new name, so that what checks passports finds it there too.
        f"{artifact}.json": passport,
        _CONFIG: config_text(config).encode(),
        _PREPROCESSING: json_bytes(_contract(source)),
    }
    if source.info.labels:
        found[_LABELS] = "".join(f"{label}\n" for label in source.info.labels).encode()
    return found


def _contract(source: Source) -> dict[str, Any]:
    """What a client has to do to an image, and what it gets."""
    return {
        "schema": 1,
        "preprocessing": source.info.preprocessing.to_json(),
        "steps": [
            "to three channels, a grey image repeated",
            "resize",
            "centre crop to image_size",
            "channel_order",
            "multiply by scale",
            "subtract mean",
            "divide by std",
        ],
        "layout": "NCHW",
        "input": _port_json(source.ports.input),
        "output": _port_json(source.ports.output),
    }


def _port_json(port: Port) -> dict[str, Any]:
    return {"name": port.name, "data_type": port.data_type, "shape": list(port.shape)}
