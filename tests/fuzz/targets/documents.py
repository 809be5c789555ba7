"""JSON that a stage reads: calibration tables, interrupted ones, benches, LoadGen's logs, descriptions."""

from __future__ import annotations

import copy
import io
import json
import math
import shutil
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import onnx_ir as ir
from rich.console import Console

from alexnet_deploy.bench.compare import Bounds, comparison
from alexnet_deploy.bench.documents import read_bench
from alexnet_deploy.bench.loadgen_log import answers_from_log, verdict_from_logs
from alexnet_deploy.bench.loadgen_options import Scenario
from alexnet_deploy.data.preprocessing import batch_from_images
from alexnet_deploy.graph import constant_of
from alexnet_deploy.pipeline.fp32 import fp32_from_source
from alexnet_deploy.precision.histogram import Histogram
from alexnet_deploy.precision.qdq import int8_from_fp32
from alexnet_deploy.precision.resume import Progress
from alexnet_deploy.precision.table import CalibrationTable, observed
from alexnet_deploy.precision.thresholds import Method
from alexnet_deploy.report.comparison import markdown_from_comparison, print_comparison
from alexnet_deploy.specs import Preprocessing, fingerprint
from alexnet_deploy.specs import Target as Place
from alexnet_deploy.variants import layers_from_network
from alexnet_deploy.weights import ModelInfo
from tests.bench.documents import bench_of
from tests.fuzz.mutate import bytes_of, json_of, text_of
from tests.fuzz.target import Target, require
from tests.fuzz.targets.hand_made import one_layer
from tests.fuzz.targets.networks import INFO

_BOUNDS = Bounds()
_LOGS = Path(__file__).parents[2] / "bench" / "loadgen_logs"


def _counted(seed: int, scale: float) -> Histogram:
    histogram = Histogram()
    histogram.add(np.random.default_rng(seed).laplace(0, scale, 500).astype(np.float32))
    return histogram


def _table_seeds() -> dict[str, Any]:
    never = Histogram()
    never.add(np.zeros(3, np.float32))
    table = CalibrationTable(
        method=Method.MAX,
        percentile=99.9,
        tensors={
            "x": observed(_counted(0, 1.0), 99.9),
            "y": observed(_counted(1, 0.1), 99.9),
            "z": observed(never, 99.9),
        },
        graph_sha256="a" * 64,
        preprocessing="b" * 16,
        images=("c" * 64, "d" * 64),
    )
    return {"table": table.to_json(), "graph": one_layer(), "other": _counted(2, 3.0).to_json()}


def _table(seeds: dict[str, Any], random: Random, folder: Path) -> None:
    document = seeds["table"]
    if random.randrange(4) == 0:
        # Counts that are whole, and belong to other values than the rest says.
        document = copy.deepcopy(document)
        document["tensors"]["x"]["histogram"] = seeds["other"]
    path = folder / "calibration.json"
    path.write_bytes(text_of(random, document))
    table = CalibrationTable.read(path)
    table.write(folder / "again.json")
    require(CalibrationTable.read(folder / "again.json") == table, "a table that does not come back")
    for name, found in table.tensors.items():
        for method in Method:
            limit, seen = found.thresholds[method], found.histogram
            require(0 <= limit <= max(-seen.minimum, seen.maximum, 0.0), f"{name}: threshold {limit}")
            require(found.range_by(method).minimum <= found.range_by(method).maximum, f"{name}: no range by {method}")
    place = random.choice(list(Place))
    model = int8_from_fp32(seeds["graph"], table.by_method(random.choice((None, *Method))), place)
    _require_scales(model)


def _require_scales(model: ir.Model) -> None:
    for node in model.graph:
        if node.op_type == "QuantizeLinear":
            scale = constant_of(node.inputs[1])
            require(scale is not None and (scale > 0).all() and np.isfinite(scale).all(), f"{node.name}: scale {scale}")


TABLES = Target(
    "calibration-table",
    "calibration tables: bytes, values of other types and sizes, counts of others; a table comes back "
    "from its file, has "
    "thresholds from 0 to the largest value, and gives Q/DQ scales above 0",
    _table_seeds,
    _table,
    900,
)


def _resumed_seeds() -> dict[str, Any]:
    tensors = {
        name: {**found.to_json(), "min": found.minimum, "max": found.maximum}
        for name, found in (("x", _counted(0, 1.0)), ("y", _counted(1, 0.1)))
    }
    return {"request": "r", "done": 16, "tensors": tensors}


def _resumed(seeds: dict[str, Any], random: Random, folder: Path) -> None:
    content = json_of(random, seeds)
    # With its own fingerprint, as somebody else's program could write it, or with that of what it was.
    mark = fingerprint(content if random.randrange(4) else seeds)
    text = json.dumps({**content, "fingerprint": mark} if isinstance(content, dict) else content).encode()
    path = folder / "table.json.part"
    path.write_bytes(text if random.randrange(4) else bytes_of(random, text))
    done, histograms = Progress(path, "r").restore(["x", "y"])
    require(list(histograms) == ["x", "y"] and done >= 0, f"{done} images, {list(histograms)}")
    for found in histograms.values():
        counted = int(found.magnitudes.sum())
        require(done > 0 or counted == 0, "counts of no images")
        require(counted == 0 or -math.inf < found.minimum <= found.maximum < math.inf, "counts without a range")
        found.merged(found)


RESUMED = Target(
    "resumed-calibration",
    "what an interrupted calibration kept, with fingerprints that fit; it is taken whole or left, and never an error",
    _resumed_seeds,
    _resumed,
    900,
)


def _bench_seeds() -> dict[str, Any]:
    rows = {"torch/fp32/1": 20.0, "openvino/int8/1": 5.0}
    shares = dict.fromkeys(rows, 0.5)
    return {"old": bench_of(rows, seed=1, shares=shares), "new": bench_of(rows, seed=2, shares=shares)}


def _bench(seeds: dict[str, Any], random: Random, folder: Path) -> None:
    changed, path = random.choice(("old", "new")), folder / "bench.json"
    path.write_bytes(text_of(random, seeds[changed]))
    documents = seeds | {changed: read_bench(path)}
    found = comparison(documents["old"], documents["new"], _BOUNDS, anyway=random.randrange(3) > 0)
    # Every figure is a number, or is left out.
    json.dumps(found, allow_nan=False)
    for row in found["rows"]:
        require(row["ratio"] is None or row["ratio"] >= 0, f"ratio {row['ratio']}")
        require(
            row["ci"] is None or row["ci"][0] <= row["ratio"] <= row["ci"][1], f"{row['ratio']} outside {row['ci']}"
        )
    require(
        found["regressions"] == [row["key"] for row in found["rows"] if row["reasons"]], "a regression without a reason"
    )
    markdown_from_comparison(found).encode()
    print_comparison(found, Console(file=io.StringIO(), width=100))


BENCHES = Target(
    "bench",
    "documents of `bench`: bytes, values of other types and sizes; `compare` gives numbers, its table and its Markdown",
    _bench_seeds,
    _bench,
    1300,
)

_SCENARIOS = {
    "single-stream-valid": Scenario.SINGLE_STREAM, "multi-stream-valid": Scenario.MULTI_STREAM,
    "offline-invalid": Scenario.OFFLINE, "server-invalid": Scenario.SERVER,
}  # fmt: skip


def _loadgen(names: list[str], random: Random, folder: Path) -> None:
    name = random.choice(names)
    logs = folder / "logs"
    shutil.copytree(_LOGS / name, logs)
    files = sorted(logs.iterdir())
    path = random.choice([*files, *(file for file in files if "detail" in file.name)])
    if "detail" in path.name and random.randrange(4):
        lines = path.read_text().splitlines()
        for at in random.sample(range(len(lines)), random.choice((1, 1, 4))):
            mark, _, rest = lines[at].partition(" ")
            lines[at] = (
                f"{mark} {text_of(random, json.loads(rest)).decode(errors='replace')}" if rest[:1] == "{" else rest
            )
        path.write_text("\n".join(lines), errors="replace")
    else:
        path.write_bytes(bytes_of(random, path.read_bytes()))
    verdict = verdict_from_logs(logs, _SCENARIOS[name])
    require(
        verdict.valid == name.endswith("-valid") or path.name.endswith(("detail.txt", "summary.txt")), "another verdict"
    )
    require(verdict.valid or verdict.invalid_because, "invalid, and nobody knows why")
    figures = [verdict.metric.value, *verdict.latency_ms.values(), *verdict.also.values()]
    require(all(math.isfinite(figure) and figure >= 0 for figure in figures), f"figures {figures}")
    if name == "single-stream-valid":
        require(all(image >= 0 for image, _ in answers_from_log(logs)), "an answer to no image")


LOADGEN_LOGS = Target(
    "loadgen-log",
    "LoadGen's logs: bytes, lines, values; the verdict has reasons where it is invalid, and figures that are numbers",
    lambda: list(_SCENARIOS),
    _loadgen,
    600,
)


def _description_seeds() -> dict[str, Any]:
    return {"info": INFO.to_json(), "preprocessing": INFO.preprocessing.to_json()}


def _description(seeds: dict[str, Any], random: Random, folder: Path) -> None:
    pixels = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
    if random.randrange(3) == 0:
        path, graph = folder / "preprocessing.json", folder / "x.onnx"
        path.write_bytes(text_of(random, seeds["preprocessing"]))
        graph.write_bytes(ir.to_proto(one_layer(image=True)).SerializeToString())
        from alexnet_deploy.progress import SILENT

        made = fp32_from_source(graph, variant=None, preprocessing=str(path), opset=18, voice=SILENT)
        found: Preprocessing = ModelInfo.from_json(made.facts["model"]).preprocessing
    else:
        info = ModelInfo.from_json(json_of(random, seeds["info"]))
        require(
            ModelInfo.from_json(json.loads(json.dumps(info.to_json(), allow_nan=False))) == info,
            "it does not come back",
        )
        if info.network is not None:
            layers_from_network(info.network)
        found = info.preprocessing
    if found.image_size <= 256 and found.resize_size <= 512:
        batch = batch_from_images([pixels], found)
        require(batch.shape == (1, 3, found.image_size, found.image_size), f"images of shape {batch.shape}")
        require(np.isfinite(batch).all(), "images that are not finite")


DESCRIPTIONS = Target(
    "description",
    "descriptions of models and of preprocessing: values of other types and sizes; they come back from JSON, and give "
    "images that are finite",
    _description_seeds,
    _description,
    900,
)
