"""What `--executor ray` costs and gives on one machine: images per second against `--executor local`, and peak memory.

The INT8 graph of ONNX Runtime evaluates the shipped images, written as files often enough, by this process and by one
and two workers. Each turn runs every way once, in a process of its own, so that a slower minute of the machine hits all
alike. Then a set ten times as large, for its memory.

usage: python -m benchmarks.ray_data [TURNS]
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from alexnet_deploy.files import write_json
from alexnet_deploy.machine import environment, peak_memory_bytes, tool_versions

RESULT = Path(__file__).parent / "results" / "ray-data.json"
FEW, MANY = 2_000, 20_000
# Workers; none is this process.
WAYS = {"local": 0, "ray, 1 worker": 1, "ray, 2 workers": 2}


def write_pictures(folder: Path, count: int) -> None:
    """The shipped evaluation images as PNG files, each again under other names until there are enough."""
    from PIL import Image

    from alexnet_deploy.data.shipped import Split, shipped_images

    source = shipped_images(Split.EVALUATION)
    for index in range(count):
        place = folder / f"{int(source.labels[index % len(source)]):02}" / f"{index:05}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        first = index % len(source)
        if index == first:
            Image.fromarray(source.image(index)).save(place)
        else:
            place.symlink_to(place.with_name(f"{first:05}.png"))


def one_case(folder: str, workers: int) -> dict[str, Any]:
    """Evaluates a folder, and says how long it took and how much memory."""
    import numpy as np

    from alexnet_deploy.pipeline.stages import Deployment
    from alexnet_deploy.pipeline.workspace import Workspace
    from alexnet_deploy.runtimes.session import SessionSpec
    from alexnet_deploy.scale.executor import ExecutorName, ScaleOptions, opened_executor
    from alexnet_deploy.scale.images import ImageSet
    from alexnet_deploy.scale.jobs import Evaluate
    from alexnet_deploy.specs import Precision, Target

    deployment = Deployment(workspace=Workspace(folder=Path("artifacts")))
    graph = deployment.graph(Precision.INT8, Target.ONNXRUNTIME_CPU)
    images = ImageSet(data=folder)
    threads = environment()["cpus"]
    spec = SessionSpec(runtime="onnxruntime-cpu", precision=Precision.INT8, path=graph.path, threads=threads)
    job = Evaluate(
        images=images,
        indices=np.arange(len(images.source)),
        spec=spec,
        preprocessing=deployment.info.preprocessing,
    )
    options = ScaleOptions(executor=ExecutorName.RAY, workers=workers) if workers else ScaleOptions()
    started = time.perf_counter()
    with opened_executor(options) as executor:
        connected = time.perf_counter()
        ends, counts = [], []
        for answer in executor.run(job):
            ends.append(time.perf_counter())
            counts.append(len(answer.arrays["logits"]))
        found = executor.to_json()
    return {
        "images": sum(counts),
        "cluster_s": round(connected - started, 2),
        "first_answer_s": round(ends[0] - connected, 2),
        "seconds": round(ends[-1] - started, 2),
        # Without the start: what a larger set would see.
        "images_per_second": round(sum(counts[1:]) / (ends[-1] - ends[0]), 2),
        "command_peak_memory_bytes": peak_memory_bytes(),
        "worker_peak_memory_bytes": found.get("worker_peak_memory_bytes"),
    }


def case(folder: Path, workers: int) -> dict[str, Any]:
    """In a process of its own, whose memory nobody has used before."""
    command = [sys.executable, "-m", "benchmarks.ray_data", "--case", str(folder), str(workers)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main(turns: int) -> None:
    """Writes `results/ray-data.json`."""
    with tempfile.TemporaryDirectory() as made:
        few, many = Path(made) / "few", Path(made) / "many"
        write_pictures(few, FEW)
        write_pictures(many, MANY)
        # Makes the graph, which no turn has to.
        case(few, 0)
        per_way: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
        for _ in range(turns):
            for way, workers in WAYS.items():
                per_way[way].append(case(few, workers))
                print(way, per_way[way][-1], flush=True)
        large = case(many, WAYS["ray, 2 workers"])
        print("many", large, flush=True)
    rates = {way: [found["images_per_second"] for found in cases] for way, cases in per_way.items()}
    rows = []
    for way, cases in per_way.items():
        ratios = [one / other for one, other in zip(rates[way], rates["local"], strict=True)]
        rows.append(
            {
                "way": way,
                "workers": WAYS[way],
                "images_per_second_median": round(statistics.median(rates[way]), 2),
                "ratio_to_local_median": round(statistics.median(ratios), 3),
                "ratio_to_local_min_max": [round(min(ratios), 3), round(max(ratios), 3)],
                "turns": cases,
            }
        )
    document = {
        "schema": 1,
        "what": "onnxruntime-cpu int8, shipped model, accuracy only; images per second without the start",
        "conditions": "a machine whose two CPUs other work shared",
        "turns": turns,
        "environment": {**environment(), "ray": tool_versions("ray", "pyarrow")},
        "rows": rows,
        "memory": {"ray, 2 workers": [per_way["ray, 2 workers"][-1], large]},
    }
    write_json(RESULT, document)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--case"]:
        print(json.dumps(one_case(sys.argv[2], int(sys.argv[3]))))
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
