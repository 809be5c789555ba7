"""What is measured of one model and holds for every target: what its layers read, how weights are rounded, and the
choices of lowering and placement that are timed on this machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alexnet_deploy.files import sha256_of
from alexnet_deploy.pipeline.lrn_choice import LrnChoice
from alexnet_deploy.pipeline.workspace import Workspace
from alexnet_deploy.specs import GraphOptions, Precision, RoundingOptions, Target, WeightRounding
from alexnet_deploy.weights import ModelInfo

if TYPE_CHECKING:
    import onnx_ir as ir

    from alexnet_deploy.pipeline.target_graph import GraphRequest
    from alexnet_deploy.precision.moments import InputMoments
    from alexnet_deploy.precision.table import CalibrationTable
    from alexnet_deploy.precision.weights import Rounding


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Measurements of one model, each taken when it is first asked for.

    Attributes:
        workspace: Where timed choices are kept.
        stem: Of their files' names.
        graph: Opens the FP32 graph.
        path: Its file.
        info: Its description.
    """

    workspace: Workspace
    stem: str
    graph: Callable[[], ir.Model]
    path: Path
    info: ModelInfo
    _known: dict[Any, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def completed(self, asked: GraphRequest, table_path: Path, placed: dict[str, Any]) -> GraphRequest:
        """The request with the table, what its images say of the weights, and the placement."""
        from alexnet_deploy.precision.qdq import Placement
        from alexnet_deploy.precision.table import CalibrationTable

        table = CalibrationTable.read(table_path)
        asked = replace(asked, table=table)
        if asked.precision is Precision.INT4:
            return replace(asked, moments=self._moments(table, table_path, full=True))
        if asked.precision is Precision.INT8:
            rounding = self._rounding(asked.options.rounding, table, table_path)
            return replace(asked, rounding=rounding, placement=Placement(**placed.get("chosen", {})))
        return asked

    def lowering(self, target: Target) -> LrnChoice:
        """The lowering of LRN that is fastest on this machine."""
        from alexnet_deploy.pipeline.lrn_measured import measured_choice

        path = self.workspace.folder / f"{self.stem}.lrn-measured.{target.value}.json"
        return measured_choice(self.workspace, path, self.graph(), self.path, self.info.preprocessing, target)

    def placement(self, target: Target, choice: LrnChoice, table_path: Path, options: GraphOptions) -> dict[str, Any]:
        """The document of the search for the fastest placement on this machine."""
        from alexnet_deploy.pipeline.guard import GuardSet
        from alexnet_deploy.pipeline.int8 import Int8Maker
        from alexnet_deploy.pipeline.placement import DEFAULT_DROP, PlacementSearch, measured_placement
        from alexnet_deploy.precision.qdq import Placement
        from alexnet_deploy.precision.table import CalibrationTable

        table = CalibrationTable.read(table_path)

        def build(placement: Placement) -> ir.Model:
            return Int8Maker(
                model=self.graph(),
                info=self.info,
                table=table,
                target=target,
                choice=choice,
                rounding=self._rounding(options.rounding, table, table_path),
                placement=placement,
            ).graph()

        @cache
        def guards() -> GuardSet:
            return GuardSet(self.graph(), self.info, table, self.workspace.voice)

        search = PlacementSearch(
            build=build,
            drop=lambda made: guards().drop(made, target),
            max_drop=DEFAULT_DROP if options.max_drop is None else options.max_drop,
        )
        path = self.workspace.folder / f"{self.stem}.int8.{target.value}.placement.json"
        request = {**choice.facts(), "rounding": asdict(options.rounding)}
        parents = [self.path, table_path]
        return measured_placement(self.workspace, path, parents, request, search, target, self.info.preprocessing)

    def _moments(self, table: CalibrationTable, path: Path, *, full: bool) -> dict[str, InputMoments]:
        from alexnet_deploy.pipeline.rounding import moments_of

        key = "moments", full, sha256_of(path)
        if key not in self._known:
            voice = self.workspace.voice
            self._known[key] = moments_of(self.graph(), self.info, table, path, full=full, voice=voice)
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
            self._known[key] = MeasuredRounding(options, moments, self.workspace.voice)
        found: Rounding = self._known[key]
        return found
