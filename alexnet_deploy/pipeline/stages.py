"""The stages over a workspace: FP32 graph, calibration table, graphs per precision and target, engines.

Each makes what it needs from the stage before it, as make would.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alexnet_deploy.artifacts import matching_passport, read_passport, require_passport, write_artifact
from alexnet_deploy.engines.options import resolved_here
from alexnet_deploy.errors import ArtifactError, InputError
from alexnet_deploy.files import sha256_of
from alexnet_deploy.locks import locked
from alexnet_deploy.normalise import DEFAULT_OPSET
from alexnet_deploy.pipeline.engine import (
    EngineRequest,
    engine_in_workspace,
    engine_name,
    plugin_of,
)
from alexnet_deploy.pipeline.fp32 import fp32_from_source
from alexnet_deploy.pipeline.lrn_choice import lrn_choice
from alexnet_deploy.pipeline.measured import Measured
from alexnet_deploy.pipeline.workspace import Artifact, Made, Workspace
from alexnet_deploy.specs import CPU_TARGETS, QUANTIZED, GraphOptions, Lowering, LrnSpec, Precision, Target
from alexnet_deploy.weights import ModelInfo, shipped_checkpoint

if TYPE_CHECKING:
    import onnx_ir as ir

    from alexnet_deploy.engines.options import EngineOptions
    from alexnet_deploy.precision.calibrate import CalibrationOptions
    from alexnet_deploy.scale.executor import Executor

DEFAULT_CALIBRATION_IMAGES = 512
DEFAULT_GRAPH_OPTIONS = GraphOptions()
NAMED_MODELS = ("shipped", "torchvision")
TIMING_CACHE = "tensorrt.timing-cache"


@dataclass(frozen=True)
class Deployment:
    """One model on its way through a workspace.

    Attributes:
        workspace: Where artifacts go.
        model: `shipped`, `torchvision`, a checkpoint or an ONNX file.
        variant: For weight files that do not say.
        preprocessing: For ONNX files that do not say: `imagenet`, `caffe`, or a JSON file.
        opset: Of the graphs.
    """

    workspace: Workspace
    model: str = "shipped"
    variant: str | None = None
    preprocessing: str | None = None
    opset: int = DEFAULT_OPSET

    @cached_property
    def source(self) -> Path:
        """The model as a file; torchvision's weights are written into the workspace first.

        Raises:
            InputError: There is no such model.
        """
        if self.model == "shipped":
            return shipped_checkpoint()
        if self.model == "torchvision":
            return self._torchvision_checkpoint()
        path = Path(self.model).expanduser()
        if not path.is_file():
            raise InputError(
                f"there is no model {self.model!r}",
                got="a folder" if path.is_dir() else "no such file",
                expected="shipped, torchvision, a checkpoint or an ONNX file",
            )
        return path

    def _torchvision_checkpoint(self) -> Path:
        path = self.workspace.folder / "torchvision-alexnet.safetensors"
        if matching_passport(path) is None:
            from alexnet_deploy.weights import encoded_checkpoint, load_model

            with locked(path, self.workspace.voice):
                network, info = load_model("torchvision")
                data = encoded_checkpoint(network, info, path)
                write_artifact(path, data, kind="checkpoint", facts={"model": info.to_json()})
        return path

    @property
    def is_graph(self) -> bool:
        """Whether the user brought ONNX."""
        return self.source.suffix == ".onnx"

    @property
    def stem(self) -> str:
        """Of the artifacts' names: a graph that the user brought keeps its own."""
        return self.source.stem if self.is_graph else "alexnet"

    def fp32_graph(self, output: Path | None = None) -> Artifact:
        """The normalised FP32 graph with standard `LRN` nodes, proved against its source on real images.

        Raises:
            ParityError: It computes something else than its source.
        """
        passport = read_passport(self.source) if self.is_graph else None
        if passport is not None and passport.kind == "onnx" and output is None:
            require_passport(self.source, because="says which model it is")
            wanted = {"precision": "fp32", "lrn": "native", "opset": self.opset}
            # What this tool makes keeps its weights inside; runtimes open the file by themselves.
            if all(passport.facts.get(name) == value for name, value in wanted.items()) and not self._beside_source:
                return Artifact(path=self.source, reused=True, facts=passport.facts)
        path = output or self.workspace.folder / f"{self.stem}.onnx"
        request = {"opset": self.opset, "variant": self.variant, "preprocessing": self.preprocessing}

        def stage() -> Made:
            return fp32_from_source(
                self.source,
                variant=self.variant,
                preprocessing=self.preprocessing,
                opset=self.opset,
                voice=self.workspace.voice,
            )

        return self.workspace.make(path, "onnx", request, [self.source, *self._beside_source], stage)

    @property
    def _beside_source(self) -> list[Path]:
        """Weights outside the ONNX file that the user brought: the file stays the same when they change."""
        if not self.is_graph:
            return []
        from alexnet_deploy.graph import external_files

        return external_files(self.source)

    @cached_property
    def _fp32(self) -> Artifact:
        return self.fp32_graph()

    @cached_property
    def _model(self) -> ir.Model:
        from alexnet_deploy.graph import read_graph

        return read_graph(self._fp32.path)

    def to_json(self) -> dict[str, Any]:
        """What a bench says of the model: its description, and the file it came from."""
        return {**self.info.to_json(), "source": self.source.name, "sha256": sha256_of(self.source)}

    @cached_property
    def info(self) -> ModelInfo:
        """What is known of the model."""
        return ModelInfo.from_json(self._fp32.facts["model"])

    @cached_property
    def measured(self) -> Measured:
        """What is measured once and holds for every target."""
        return Measured(
            workspace=self.workspace, stem=self.stem, graph=lambda: self._model, path=self._fp32.path, info=self.info
        )

    def calibration(
        self,
        *,
        data: str | None = None,
        images: int = DEFAULT_CALIBRATION_IMAGES,
        options: CalibrationOptions | None = None,
        output: Path | None = None,
        skip_bad: bool = False,
        executor: Executor | None = None,
    ) -> Artifact:
        """The calibration table, from the shipped images or from the training split of `data`.

        Args:
            data, images, options, skip_bad: Which images, and how they are calibrated on.
            output: Another file than the work directory's.
            executor: Who reads and counts the images; this process where None, to the same digits.

        Raises:
            InputError: The model was not trained on what the shipped images show, and no data was named.
        """
        from alexnet_deploy.data.catalog import require_data
        from alexnet_deploy.pipeline.calibration import (
            calibrated,
            calibrated_elsewhere,
            calibration_images,
            calibration_set,
        )
        from alexnet_deploy.scale.images import SHIPPED

        if data is not None and data != SHIPPED:
            # Before a graph is exported.
            require_data(data)
        info = self.info
        path = output or self.workspace.folder / _named(self.stem, "calibration.json")
        origin = {"data": None if data == SHIPPED else data, "images": images}
        if executor is not None:
            named = calibration_set(info, data, images)
            common = (self.workspace, path, self._fp32.path, self._model, info)
            return calibrated_elsewhere(*common, named, executor, options, origin, skip_bad=skip_bad)
        source = calibration_images(info, data, images, skip_bad=skip_bad, voice=self.workspace.voice)
        return calibrated(self.workspace, path, self._fp32.path, self._model, info, source, options, origin)

    def graph(
        self,
        precision: Precision,
        target: Target,
        *,
        calibration: Path | None = None,
        lowering: Lowering | None = None,
        contain_nan: bool = False,
        options: GraphOptions = DEFAULT_GRAPH_OPTIONS,
        output: Path | None = None,
    ) -> Artifact:
        """The graph that `target` runs in `precision`.

        Args:
            precision: Of the layers; fp8 and int4 are for TensorRT.
            target: Where it will run.
            calibration: A table that the user named, for int8, fp8 and int4; made from the shipped images otherwise.
            lowering: Of LRN; the target's best by default.
            contain_nan: Of banded LRN: a NaN stays in its window.
            options: What may differ.
            output: Another file than the work directory's.

        Raises:
            ArtifactError: The named table belongs to another graph.
        """
        from alexnet_deploy.precision.qdq import SCHEMES

        artifact = self._fp32
        norms = [LrnSpec(**values) for values in artifact.facts["norms"]]
        if options.measure and target in CPU_TARGETS:
            choice = self.measured.lowering(target)
        else:
            choice = lrn_choice(target, precision, norms, asked=lowering, contain_nan=contain_nan)
        if precision is Precision.FP32 and choice.lowering is Lowering.NATIVE:
            return artifact if output is None else self.fp32_graph(output)
        parents = [artifact.path]
        if precision in QUANTIZED:
            parents.append(self._table(calibration))
        elif precision is not Precision.FP32 and (present := self.present_table()) is not None:
            parents.append(present)
        request: dict[str, Any] = {"precision": precision.value, "target": target.value, **choice.facts()}
        if precision is Precision.INT8:
            request |= {"scheme": asdict(SCHEMES[target]), **asdict(options)}
        placed = {}
        if precision is Precision.INT8 and options.place:
            placed = self.measured.placement(target, choice, parents[1], options)
            request["placement"] = placed["chosen"]

        def stage() -> Made:
            from alexnet_deploy.pipeline.target_graph import GraphRequest, graph_for_target

            asked = GraphRequest(precision=precision, target=target, choice=choice, options=options)
            if len(parents) > 1:
                asked = self.measured.completed(asked, parents[1], placed)
            made = graph_for_target(self._model, self.info, asked, voice=self.workspace.voice)
            return replace(made, facts={**made.facts, "placement": placed}) if placed else made

        path = output or self.workspace.folder / _graph_name(self.stem, precision, target, choice.lowering)
        return self.workspace.make(path, "onnx", request, parents, stage)

    def present_table(self) -> Path | None:
        """The calibration table in the work directory, where it is one of this model's, whatever images it was made
        from: calibrating is a stage of its own, and this is its result."""
        present = self.workspace.folder / _named(self.stem, "calibration.json")
        passport = matching_passport(present)
        if passport is not None and [digest for _, digest in passport.parents] == [sha256_of(self._fp32.path)]:
            return present
        return None

    def _table(self, named: Path | None) -> Path:
        if named is None:
            return self.present_table() or self.calibration().path
        from alexnet_deploy.precision.table import CalibrationTable

        table, digest = CalibrationTable.read(named), sha256_of(self._fp32.path)
        if table.graph_sha256 != digest:
            raise ArtifactError(
                f"{named} was made for another graph",
                got=f"graph sha256 {table.graph_sha256}",
                expected=f"graph sha256 {digest} ({self._fp32.path})",
                remedy="calibrate this model anew with `alexnet-deploy calibrate`",
            )
        return named

    def engine(
        self,
        options: EngineOptions,
        *,
        calibration: Path | None = None,
        output: Path | None = None,
        graph_options: GraphOptions = DEFAULT_GRAPH_OPTIONS,
        lowering: Lowering | None = None,
        timing_cache: Path | None = None,
    ) -> Artifact:
        """An engine with the proof of its precision in the passport.

        Args:
            options: What to build; whether it takes the LRN plugin follows from `lowering`.
            calibration: A table that the user named, for int8, fp8 and int4.
            output: Another file than the work directory's.
            graph_options: What may differ.
            lowering: Of LRN; the target's best by default.
            timing_cache: Another file of TensorRT's timing cache than the work directory's.

        Raises:
            InputError: The backend lacks an option, or an SM the precision.
            PrecisionProofError: A layer did not get the precision, and `allow_float` is not set.
            EngineError: The builder failed.
        """
        options = resolved_here(options)
        if timing_cache is not None and options.backend == "tensorrt-rtx":
            raise InputError(
                "TensorRT-RTX has no timing cache", got=f"--timing-cache {timing_cache}", remedy="leave it out"
            )
        target = Target(options.backend)
        graph = self.graph(options.precision, target, calibration=calibration, lowering=lowering, options=graph_options)
        options = plugin_of(graph, options)
        asked = EngineRequest(
            options=options,
            graph=graph,
            layers=tuple(self._fp32.facts["layers"]),
            norms=len(self._fp32.facts["norms"]),
            allow_float=graph_options.allow_float,
            source=self.model if self.model in NAMED_MODELS else self.source.name,
            timing_cache=timing_cache or self.workspace.folder / TIMING_CACHE,
        )
        path = output or self.workspace.folder / engine_name(self.stem, options)
        if options.strip and path.resolve().parent != graph.path.resolve().parent:
            raise InputError(
                "an engine without weights has to lie beside the graph that they come from",
                got=f"engine {path}, graph {graph.path}",
                remedy="leave --output out, or name a file in the graph's folder",
            )
        return engine_in_workspace(self.workspace, path, asked)


def _graph_name(stem: str, precision: Precision, target: Target, lowering: Lowering) -> str:
    if precision is Precision.FP32:
        return f"{stem}.lrn-{lowering.value}.onnx"
    plugin = ".lrn-plugin" if lowering is Lowering.PLUGIN else ""
    return f"{stem}.{precision.value}.{target.value}{plugin}.onnx"


def _named(stem: str, name: str) -> str:
    return name if stem == "alexnet" else f"{stem}.{name}"
