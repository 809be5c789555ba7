"""The placement search takes the fastest graph that keeps the budget, and keeps its table."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from alexnet_deploy.errors import InputError
from alexnet_deploy.pipeline import placement as module
from alexnet_deploy.pipeline.placement import PlacementSearch, measured_placement, placements
from alexnet_deploy.pipeline.timed import ROUNDS, RUNS
from alexnet_deploy.pipeline.workspace import Workspace
from alexnet_deploy.precision.qdq import Placement, int8_from_fp32
from alexnet_deploy.progress import Voice
from alexnet_deploy.runtimes.proof import layer_precisions
from alexnet_deploy.specs import Target
from tests.conftest import small_preprocessing
from tests.graphs import evaluate, relative_error, shipped_batch, small_graph, small_table


def test_the_default_comes_first_and_norms_are_openvinos_choice() -> None:
    for target, count in ((Target.OPENVINO, 8), (Target.ONNXRUNTIME_CPU, 4)):
        found = placements(target)
        assert len(found) == len(set(found)) == count and found[0] == Placement()
    assert not any(found.before_norm for found in placements(Target.ONNXRUNTIME_CPU))
    assert Placement().label == "default"
    assert Placement(first_float=True, before_norm=True).label == "first layer float, Q before LRN"


class Search:
    """Times and drops by placement, and what was asked."""

    def __init__(self, times: dict[Placement, float], drops: dict[Placement, float]) -> None:
        self.times, self.drops = times, drops
        self.built: list[Placement] = []
        self.judged: list[Placement] = []

    def build(self, placement: Placement) -> Any:
        self.built.append(placement)
        return placement

    def drop(self, placement: Any) -> float:
        self.judged.append(placement)
        return self.drops.get(placement, 0.0)

    def timed(self, variants: dict[str, Any], *_: Any) -> dict[str, NDArray[np.float64]]:
        random = np.random.default_rng(0)
        return {
            label: self.times.get(placement, 10.0) * random.uniform(0.99, 1.01, RUNS * ROUNDS)
            for label, placement in variants.items()
        }


def run(search: Search, folder: Path, monkeypatch: pytest.MonkeyPatch, **options: Any) -> dict[str, Any]:
    monkeypatch.setattr(module, "timed", search.timed)
    asked = PlacementSearch(build=search.build, drop=search.drop, **options)
    parent = folder / "graph.onnx"
    parent.write_bytes(b"graph")
    return measured_placement(
        Workspace(folder=folder, voice=Voice(stream=io.StringIO())),
        folder / "placement.json",
        [parent],
        {},
        asked,
        Target.OPENVINO,
        small_preprocessing(),
    )


POOL, NORM, BOTH = (
    Placement(before_pool=True), Placement(before_norm=True), Placement(before_pool=True, before_norm=True),
)  # fmt: skip


def test_the_fastest_within_the_budget_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    search = Search({POOL: 8.0, NORM: 9.0, BOTH: 7.0}, {BOTH: 0.01, POOL: 0.003, NORM: 0.001})
    document = run(search, tmp_path, monkeypatch, max_drop=0.002)
    assert Placement(**document["chosen"]) == NORM
    assert search.judged == [Placement(), BOTH, POOL, NORM]
    rows = {(row["first_float"], row["before_pool"], row["before_norm"]): row for row in document["rows"]}
    assert len(rows) == 8
    assert rows[False, True, True]["drop"] == 0.01 and rows[True, False, False]["drop"] is None
    assert rows[False, True, False]["faster"]["median"] == pytest.approx(1.25, rel=0.02)
    assert json.loads((tmp_path / "placement.json").read_text()) == document


def test_the_default_stays_unless_another_is_faster_beyond_doubt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = Search({POOL: 10.0, NORM: 12.0}, {})
    assert Placement(**run(search, tmp_path, monkeypatch)["chosen"]) == Placement()
    assert NORM not in search.judged


def test_a_search_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    search = Search({POOL: 5.0}, {})
    first = run(search, tmp_path, monkeypatch)
    built = len(search.built)
    assert run(search, tmp_path, monkeypatch) == first and len(search.built) == built
    run(search, tmp_path, monkeypatch, max_drop=0.5)
    assert len(search.built) == 2 * built


def test_a_target_that_cannot_be_timed_is_refused(tmp_path: Path) -> None:
    search = PlacementSearch(build=lambda _: small_graph(), drop=lambda _: 0.0)
    with pytest.raises(InputError, match="can be timed"):
        measured_placement(
            Workspace(folder=tmp_path), tmp_path / "p.json", [], {}, search, Target.TENSORRT, small_preprocessing()
        )


@pytest.mark.parametrize("target", [Target.OPENVINO, Target.ONNXRUNTIME_CPU], ids=str)
def test_every_placement_computes_the_network_in_the_layers_it_says(target: Target, tmp_path: Path) -> None:
    if target is Target.OPENVINO:
        pytest.importorskip("openvino")
    from alexnet_deploy.graph import write_graph

    images = shipped_batch(4)
    expected = evaluate(small_graph(), images)
    layers = ["conv1", "conv2", "fc6"]
    for placement in placements(target):
        graph = int8_from_fp32(small_graph(), small_table(), target, placement=placement)
        assert relative_error(evaluate(graph, images), expected) < 0.25
        write_graph(graph, tmp_path / "graph.onnx")
        found = layer_precisions(tmp_path / "graph.onnx", target, layers)
        assert found == {**dict.fromkeys(layers, "int8"), "conv1": "fp32" if placement.first_float else "int8"}
