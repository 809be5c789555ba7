"""Images per second of `train` by one and two processes, in turns, and what more GPUs would do on paper.

Every way takes the same steps of the same batches (paper variant, 224 pixels). Each turn runs every way once under
torchrun, in processes of its own, so that a slower minute of the machine hits all alike. Where there are two processes
the exchange of the gradients is timed alone too: their bytes, in buckets as large as DDP's.

usage: python -m benchmarks.training_scaling [TURNS [BATCH ...]]
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from alexnet_deploy.files import write_json
from alexnet_deploy.machine import environment
from alexnet_deploy.progress import Track, Voice
from alexnet_deploy.variants import NetworkSpec, layers_from_network
from benchmarks.blocks import DOCS, replace_block

RESULT = Path(__file__).parent / "results" / "training-scaling.json"
STEPS, WARM_UP_STEPS = 4, 1
DEFAULT_TURNS, DEFAULT_BATCHES = 3, (16, 64)
# DDP's default.
BUCKET_BYTES, EXCHANGES = 25 << 20, 5
# Processes and threads of each.
WAYS = {"1 process x 1 thread": (1, 1), "2 processes x 1 thread": (2, 1), "1 process x 2 threads": (1, 2)}
# On paper. FLOPs of dense BF16 and NVLink (900 GB/s both ways) by NVIDIA's data sheet of the H100 SXM; a 400 Gb/s
# InfiniBand port for each GPU, as in NVIDIA's system descriptions for MLPerf. The share of the peak is an assumption.
PEAK_FLOPS, PEAK_SHARE = 989e12, 0.3
LINK_BYTES_PER_S = {8: 450e9, 64: 50e9}
LINK_SHARE, BACKWARD_SHARE = 0.8, 2 / 3


def on_paper(gpus: int, images_per_gpu: int) -> dict[str, Any]:
    """A step's time from arithmetic and a ring all-reduce: 2 (n - 1) / n of the gradients' bytes over the link."""
    layers = layers_from_network(NetworkSpec(variant="paper", classes=1000))
    macs, parameters = sum(layer.macs for layer in layers), sum(layer.parameters for layer in layers)
    compute_s = 3 * 2 * macs * images_per_gpu / (PEAK_FLOPS * PEAK_SHARE)
    reduce_s = 2 * (gpus - 1) / gpus * 4 * parameters / (LINK_BYTES_PER_S[gpus] * LINK_SHARE)
    hidden_s = min(reduce_s, BACKWARD_SHARE * compute_s)
    worst, best = compute_s + reduce_s, compute_s + reduce_s - hidden_s
    return {
        "gpus": gpus,
        "images_per_gpu": images_per_gpu,
        "compute_ms": round(1000 * compute_s, 3),
        "all_reduce_ms": round(1000 * reduce_s, 3),
        "efficiency_without_overlap": round(compute_s / worst, 3),
        "efficiency_with_overlap": round(compute_s / best, 3),
        "built, not run": True,
    }


class _Clock(Track):
    def __init__(self, times: list[float]) -> None:
        super().__init__(Voice(quiet=True), "", 0, None)
        self._times = times

    def advance(self, count: int = 1, note: str = "") -> None:
        self._times.append(time.perf_counter())


class _Timing(Voice):
    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.times: list[float] = []

    @contextlib.contextmanager
    def track(self, description: str, total: int, done: int = 0) -> Iterator[Track]:
        yield _Clock(self.times)


def worker(threads: int, batch: int, output: Path) -> None:
    """Trains as one of the processes; the first writes the images per second of every step after the warm-up."""
    import numpy as np

    from alexnet_deploy.data.sources import ArraySource
    from alexnet_deploy.network import AlexNet, initialize
    from alexnet_deploy.specs import Preprocessing, Resize
    from alexnet_deploy.training.loop import TrainingData, TrainingFiles, train
    from alexnet_deploy.training.options import Spread, TrainingOptions
    from alexnet_deploy.training.ranks import opened_ranks

    count = batch * (STEPS + WARM_UP_STEPS + 1)
    pixels = np.random.default_rng(0).integers(0, 256, (count, 28, 28), dtype=np.uint8)
    source = ArraySource(pixels, np.arange(count) % 10, tuple("0123456789"), "noise")
    preprocessing = Preprocessing(image_size=224, resize_size=224, resize=Resize.STRETCH)
    network = AlexNet(NetworkSpec(variant="paper", classes=10))
    initialize(network, 0)
    voice = _Timing()
    data = TrainingData(train=source, validation=None, preprocessing=preprocessing)
    options = TrainingOptions(epochs=1, batch_size=batch, precision="fp32")
    files = TrainingFiles(state=output.with_suffix(".state"), log=output.with_suffix(".log"))
    with opened_ranks(Spread(threads=threads)) as ranks:
        train(network, data, options, files, ranks=ranks, voice=voice)
        if ranks.first:
            taken = [after - before for before, after in zip(voice.times, voice.times[1:], strict=False)]
        exchanged = _exchange_ms(sum(each.numel() for each in network.parameters()))
        if ranks.first:
            speeds = [batch / one for one in taken[WARM_UP_STEPS:]]
            output.write_text(json.dumps({"images_per_second": speeds, "exchange_ms": exchanged}))


def _exchange_ms(values: int) -> list[float]:
    """Milliseconds of each exchange of so many FP32 gradients; none where there is one process."""
    import torch

    if not torch.distributed.is_initialized() or torch.distributed.get_world_size() == 1:
        return []
    buckets = torch.split(torch.ones(values), BUCKET_BYTES // 4)
    taken = []
    for _ in range(EXCHANGES):
        torch.distributed.barrier()
        started = time.perf_counter()
        for bucket in buckets:
            torch.distributed.all_reduce(bucket)
        taken.append(1e3 * (time.perf_counter() - started))
    return taken


def one_turn(processes: int, threads: int, batch: int) -> tuple[list[float], list[float]]:
    """Images per second of each step, and milliseconds of each exchange of gradients."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "speeds.json"
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        command = [*torchrun, "-m", "benchmarks.training_scaling", "--worker", str(threads), str(batch), str(output)]
        known = os.environ | {"OMP_NUM_THREADS": str(threads)}
        subprocess.run(command, check=True, capture_output=True, env=known)
        found = json.loads(output.read_text())
    return found["images_per_second"], found["exchange_ms"]


def main(turns: int, batches: Sequence[int]) -> None:
    """Runs all the ways in turns and writes medians, spreads and ratios."""
    load = os.getloadavg()[0]
    exchanges: list[float] = []
    rows = [row for batch in batches for row in _rows(turns, batch, exchanges)]
    document = {
        "schema": 2,
        "what": "train, paper variant, 10 classes, 224 pixels, FP32, AdamW; batch: images a step over all processes",
        "turns": turns,
        "load_before": round(load, 2),
        "environment": environment(),
        "rows": rows,
        "exchange_ms": {
            "median": round(statistics.median(exchanges), 1),
            "min_max": [round(min(exchanges), 1), round(max(exchanges), 1)],
            "samples": [round(one, 1) for one in exchanges],
        },
        "on_paper": [on_paper(gpus, images) for gpus in LINK_BYTES_PER_S for images in (128, 1024)],
    }
    write_json(RESULT, document)
    replace_block(DOCS / "training.md", "training-scaling", "\n" + table(document) + "\n")


def _rows(turns: int, batch: int, exchanges: list[float]) -> list[dict[str, Any]]:
    per_turn: dict[str, list[list[float]]] = {way: [] for way in WAYS}
    for turn in range(turns):
        for way, (processes, threads) in WAYS.items():
            speeds, exchanged = one_turn(processes, threads, batch)
            per_turn[way].append(speeds)
            exchanges += exchanged
            print(
                f"batch {batch}, turn {turn + 1}/{turns}  {way}: {statistics.median(speeds):.1f} images/s", flush=True
            )
    base = [statistics.median(one) for one in per_turn[next(iter(WAYS))]]
    rows = []
    for way in WAYS:
        samples = [sample for one in per_turn[way] for sample in one]
        ratios = [statistics.median(one) / alone for one, alone in zip(per_turn[way], base, strict=True)]
        rows.append(
            {
                "batch": batch,
                "way": way,
                "images_per_second_median": round(statistics.median(samples), 2),
                "images_per_second_min_max": [round(min(samples), 2), round(max(samples), 2)],
                "ratio_median": round(statistics.median(ratios), 3),
                "ratio_min_max": [round(min(ratios), 3), round(max(ratios), 3)],
                "samples": [round(sample, 3) for sample in samples],
            }
        )
    return rows


def table(document: dict[str, Any]) -> str:
    """The rows in Markdown."""
    lines = [
        "| images a step | way | images/s, median | min to max | ratio, median | min to max |",
        "|---|---|---|---|---|---|",
    ]
    for row in document["rows"]:
        speeds, ratios = row["images_per_second_min_max"], row["ratio_min_max"]
        lines.append(
            f"| {row['batch']} | {row['way']} | {row['images_per_second_median']} | {speeds[0]} to {speeds[1]} "
            f"| {row['ratio_median']} | {ratios[0]} to {ratios[1]} |"
        )
    exchange, machine = document["exchange_ms"], document["environment"]
    least, most = exchange["min_max"]
    return "\n".join(
        [
            *lines,
            "",
            f"{document['turns']} turns on {machine['cpu']} ({machine['cpus']} CPUs), load {document['load_before']} "
            f"before. Exchanging the gradients alone takes {exchange['median']:.0f} ms ({least:.0f} to {most:.0f}).",
        ]
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        worker(int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
    else:
        asked = [int(word) for word in sys.argv[1:]]
        main(asked[0] if asked else DEFAULT_TURNS, asked[1:] or DEFAULT_BATCHES)
