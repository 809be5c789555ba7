"""The stages over a workspace: FP32 graph, calibration table, graphs per precision and target, engines.

Each makes what it needs from the stage before it, as make would.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alexnet_deploy.artifacts import matching_passport, read_passport, require_passport, sha256_of
from alexnet_deploy.errors import ArtifactError, InputError
from alexnet_deploy.normalise import DEFAULT_OPSET
from alexnet_deploy.pipeline.fp32 import fp32_from_source
from alexnet_deploy.pipeline.lrn_choice import LrnChoice, lrn_choice
from alexnet_deploy.pipeline.workspace import Artifact, Made, Workspace
from alexnet_deploy.specs import QUANTIZED, GraphOptions, Lowering, Precision, RoundingOptions, Target, WeightRounding
from alexnet_deploy.weights import ModelInfo, shipped_checkpoint

if TYPE_CHECKING:
    import onnx_ir as ir

    from alexnet_deploy.engines.options import EngineOptions
    from alexnet_deploy.pipeline.target_graph import GraphRequest
    from alexnet_deploy.precision.calibrate import CalibrationOptions
    from alexnet_deploy.precision.moments import InputMoments
    from alexnet_deploy.precision.table import CalibrationTable
    from alexnet_deploy.precision.weights import Rounding

DEFAULT_CALIBRATION_IMAGES = 512
DEFAULT_GRAPH_OPTIONS = GraphOptions()


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
        if read_passport(path) is None:
            from alexnet_deploy.artifacts import write_passport
            from alexnet_deploy.weights import load_model, save_checkpoint

            network, info = load_model("torchvision")
            save_checkpoint(network, info, path)
            write_passport(path, kind="checkpoint", facts={"model": info.to_json()})
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
            if all(passport.facts.get(name) == value for name, value in wanted.items()):
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

        return self.workspace.make(path, "onnx", request, [self.source], stage)

    @cached_property
    def _graph(self) -> tuple[Artifact, ir.Model, ModelInfo]:
        from alexnet_deploy.graph import info_of, read_graph

        artifact = self.fp32_graph()
        model = read_graph(artifact.path)
        info = info_of(model)
        if info is None:
            raise InputError(f"{artifact.path} has no description", remedy="export it with this tool")
        return artifact, model, info

    @property
    def info(self) -> ModelInfo:
        """What is known of the model."""
        return self._graph[2]

    def calibration(
        self,
        *,
        data: str | None = None,
        images: int = DEFAULT_CALIBRATION_IMAGES,
        options: CalibrationOptions | None = None,
        output: Path | None = None,
        skip_bad: bool = False,
    ) -> Artifact:
        """The calibration table, from the shipped images or from the training split of `data`.

        Raises:
            InputError: The model was not trained on what the shipped images show, and no data was named.
        """
        from alexnet_deploy.pipeline.calibration import calibrated, calibration_images

        artifact, model, info = self._graph
        source = calibration_images(info, data, images, skip_bad=skip_bad, voice=self.workspace.voice)
        path = output or self.workspace.folder / _named(self.stem, "calibration.json")
        origin = {"data": None if data == "shipped" else data, "images": images}
        return calibrated(self.workspace, path, artifact.path, model, info, source, options, origin)

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
        from alexnet_deploy.lrn.lowering import lrn_nodes, spec_of
        from alexnet_deploy.pipeline.target_graph import GraphRequest, graph_for_target
        from alexnet_deploy.pipeline.timed import TIMED_TARGETS
        from alexnet_deploy.precision.qdq import SCHEMES

        artifact, model, info = self._graph
        norms = [spec_of(node) for node in lrn_nodes(model)]
        if options.measure and target in TIMED_TARGETS:
            choice = self._measured_choice(target)
        else:
            choice = lrn_choice(target, precision, norms, asked=lowering, contain_nan=contain_nan)
        if precision is Precision.FP32 and choice.lowering is Lowering.NATIVE:
            return artifact if output is None else self.fp32_graph(output)
        parents = [artifact.path]
        if precision in QUANTIZED:
            parents.append(self._table(calibration, artifact))
        elif precision is not Precision.FP32 and (present := self.present_table()) is not None:
            parents.append(present)
        if precision is Precision.FP32:
            name = f"{self.stem}.lrn-{choice.lowering.value}.onnx"
        else:
            plugin = ".lrn-plugin" if choice.lowering is Lowering.PLUGIN else ""
            name = f"{self.stem}.{precision.value}.{target.value}{plugin}.onnx"
        request: dict[str, Any] = {"precision": precision.value, "target": target.value, **choice.facts()}
        if precision is Precision.INT8:
            request |= {"scheme": asdict(SCHEMES[target]), **asdict(options)}
        placed = {}
        if precision is Precision.INT8 and options.place:
            placed = self._placement(target, choice, parents, options)
            request["placement"] = placed["chosen"]

        def stage() -> Made:
            asked = GraphRequest(precision=precision, target=target, choice=choice, options=options)
            if len(parents) > 1:
                asked = self._with_measured(asked, parents[1], placed)
            made = graph_for_target(model, info, asked, voice=self.workspace.voice)
            return replace(made, facts={**made.facts, "placement": placed}) if placed else made

        return self.workspace.make(output or self.workspace.folder / name, "onnx", request, parents, stage)

    def _with_measured(self, asked: GraphRequest, path: Path, placed: dict[str, Any]) -> GraphRequest:
        """The request with what was measured: the table, what its images say of the weights, and the placement."""
        from alexnet_deploy.precision.qdq import Placement
        from alexnet_deploy.precision.table import CalibrationTable

        table = CalibrationTable.read(path)
        asked = replace(asked, table=table)
        if asked.precision is Precision.INT4:
            return replace(asked, moments=self._moments(table, path, full=True))
        if asked.precision is Precision.INT8:
            rounding = self._rounding(asked.options.rounding, table, path)
            return replace(asked, rounding=rounding, placement=Placement(**placed.get("chosen", {})))
        return asked

    def _placement(
        self, target: Target, choice: LrnChoice, parents: list[Path], options: GraphOptions
    ) -> dict[str, Any]:
        """The document of the search for the fastest placement on this machine."""
        from alexnet_deploy.pipeline.guard import GuardSet
        from alexnet_deploy.pipeline.int8 import Int8Maker
        from alexnet_deploy.pipeline.placement import DEFAULT_DROP, PlacementSearch, measured_placement
        from alexnet_deploy.precision.qdq import Placement
        from alexnet_deploy.precision.table import CalibrationTable

        _, model, info = self._graph
        table = CalibrationTable.read(parents[1])

        def build(placement: Placement) -> ir.Model:
            return Int8Maker(
                model=model,
                info=info,
                table=table,
                target=target,
                choice=choice,
                rounding=self._rounding(options.rounding, table, parents[1]),
                placement=placement,
            ).graph()

        @cache
        def guards() -> GuardSet:
            return GuardSet(model, info, table, self.workspace.voice)

        search = PlacementSearch(
            build=build,
            drop=lambda made: guards().drop(made, target),
            max_drop=DEFAULT_DROP if options.max_drop is None else options.max_drop,
        )
        path = self.workspace.folder / f"{self.stem}.int8.{target.value}.placement.json"
        request = {**choice.facts(), "rounding": asdict(options.rounding)}
        return measured_placement(self.workspace, path, parents, request, search, target, info.preprocessing)

    @cached_property
    def _known(self) -> dict[Any, Any]:
        """What was measured for one target and holds for the next."""
        return {}

    def _moments(self, table: CalibrationTable, path: Path, *, full: bool) -> dict[str, InputMoments]:
        from alexnet_deploy.pipeline.rounding import moments_of

        _, model, info = self._graph
        key = "moments", full, sha256_of(path)
        if key not in self._known:
            self._known[key] = moments_of(model, info, table, path, full=full, voice=self.workspace.voice)
        found: dict[str, InputMoments] = self._known[key]
        return found

    def _rounding(self, options: RoundingOptions, table: CalibrationTable, path: Path) -> Rounding:
        from alexnet_deploy.precision.rounding import MeasuredRounding
        from alexnet_deploy.precision.weights import nearest

        if not options.needs_images:
            return nearest
        moments = self._moments(table, path, full=options.rounding is WeightRounding.GPTQ)
        key = options, sha256_of(path)
        if key not in self._known:
            self._known[key] = MeasuredRounding(options, moments)
        found: Rounding = self._known[key]
        return found

    def _measured_choice(self, target: Target) -> LrnChoice:
        from alexnet_deploy.pipeline.lrn_measured import measured_choice

        artifact, model, info = self._graph
        path = self.workspace.folder / f"{self.stem}.lrn-measured.{target.value}.json"
        return measured_choice(self.workspace, path, model, artifact.path, info.preprocessing, target)

    def present_table(self) -> Path | None:
        """The calibration table in the work directory, where it is one of this model's, whatever images it was made
        from: calibrating is a stage of its own, and this is its result."""
        present = self.workspace.folder / _named(self.stem, "calibration.json")
        passport = matching_passport(present)
        if passport is not None and [digest for _, digest in passport.parents] == [sha256_of(self._graph[0].path)]:
            return present
        return None

    def _table(self, named: Path | None, artifact: Artifact) -> Path:
        if named is None:
            return self.present_table() or self.calibration().path
        from alexnet_deploy.precision.table import CalibrationTable

        table, digest = CalibrationTable.read(named), sha256_of(artifact.path)
        if table.graph_sha256 != digest:
            raise ArtifactError(
                f"{named} was made for another graph",
                got=f"graph sha256 {table.graph_sha256}",
                expected=f"graph sha256 {digest} ({artifact.path})",
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
    ) -> Artifact:
        """An engine with the proof of its precision in the passport.

        Args:
            options: What to build; whether it takes the LRN plugin follows from `lowering`.
            calibration: A table that the user named, for int8, fp8 and int4.
            output: Another file than the work directory's.
            graph_options: What may differ.
            lowering: Of LRN; the target's best by default.

        Raises:
            PrecisionProofError: A layer did not get the precision, and `allow_float` is not set.
            EngineError: The builder failed.
        """
        from alexnet_deploy.optional import tensorrt_from_backend

        backend, module = tensorrt_from_backend(options.backend)
        graph = self.graph(
            options.precision, Target(backend), calibration=calibration, lowering=lowering, options=graph_options
        )
        options = replace(options, plugin=graph.facts.get("lrn") == Lowering.PLUGIN.value)
        request = {**options.to_json(), "backend": backend, "version": module.__version__}
        request["allow_float"] = graph_options.allow_float
        path = output or self.workspace.folder / self.engine_name(options, backend)

        def stage() -> Made:
            return self._build(graph, options, path, allow_float=graph_options.allow_float)

        return self.workspace.make(path, "engine", request, [graph.path], stage)

    def engine_name(self, options: EngineOptions, backend: str) -> str:
        """File name of an engine in the work directory."""
        from alexnet_deploy.engines.options import sm_label

        label = sm_label(options.sms) if backend == "tensorrt-rtx" else "native"
        plugin = ".lrn-plugin" if options.plugin else ""
        return f"{self.stem}.{options.precision.value}.{backend}.{label}{plugin}.engine"

    def _build(self, graph: Artifact, options: EngineOptions, path: Path, *, allow_float: bool) -> Made:
        from alexnet_deploy.engines.build import engine_from_onnx, write_log
        from alexnet_deploy.engines.plan import read_plan, require_plugins, require_precision
        from alexnet_deploy.graph import read_graph, weighted_nodes
        from alexnet_deploy.lrn.lowering import lrn_nodes

        built = engine_from_onnx(graph.path.read_bytes(), options, voice=self.workspace.voice)
        write_log(path.with_name(path.name + ".log"), built.log)
        facts: dict[str, Any] = {
            "model": self.info.to_json(),
            "precision": options.precision.value,
            "lrn": graph.facts.get("lrn"),
            "lrn_reason": graph.facts.get("lrn_reason"),
            "backend": built.backend,
            "profile": [options.min_batch, options.opt_batch, options.max_batch],
            "build_seconds": round(built.seconds, 2),
        }
        if built.backend == "tensorrt-rtx":
            plan = read_plan(built.plan)
            facts["plan"] = plan.to_json()
            # Names come from the FP32 graph: quantization keeps them.
            keep_float = graph.facts.get("keep_float", [])
            layers = [layer.name for layer in weighted_nodes(read_graph(self._graph[0].path))]
            expected = [name for name in layers if name not in keep_float]
            if not allow_float:
                require_precision(plan, options.precision.value, expected)
            if options.plugin:
                require_plugins(plan, len(lrn_nodes(self._graph[1])))
            proved = sum(layer.precision == options.precision.value for layer in plan.layers)
            self.workspace.voice.say(
                f"  precision proof: {proved} of {len(expected)} layers in {options.precision.value}"
                + (f"; {len(plan.plugins)} LRN plugins" if plan.plugins else "")
            )
        return Made(data=built.plan, facts=facts, tools={built.backend: built.version})


def _named(stem: str, name: str) -> str:
    return name if stem == "alexnet" else f"{stem}.{name}"
