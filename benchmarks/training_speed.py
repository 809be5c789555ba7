"""Images per second of training the full-size network, against the same network with torch's own LRN.

Four ways to train the `paper` variant at 224 pixels, batch 64: torch's `nn.LocalResponseNorm` or ours, with glibc's
default allocator or with freed memory kept. Each turn runs every way once, in a process of its own, so that a slower
minute of the machine hits all alike.

usage: python -m benchmarks.training_speed [TURNS]
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

from alexnet_deploy.files import write_json
from alexnet_deploy.machine import environment, keep_freed_memory

RESULT = Path(__file__).parent / "results" / "training-speed.json"
BATCH, STEPS, WARM_UP_STEPS = 64, 4, 2
WAYS = {
    "torch LRN": ("torch", "default"),
    "torch LRN, freed memory kept": ("torch", "kept"),
    "our LRN": ("ours", "default"),
    "our LRN, freed memory kept (what train does)": ("ours", "kept"),
}


def one_turn(lrn: str, memory: str) -> list[float]:
    """Images per second of each step after the warm-up."""
    import torch
    from torch import nn
    from torch.nn import functional as F

    from alexnet_deploy.network import AlexNet, initialize
    from alexnet_deploy.training.loop import uses_bf16
    from alexnet_deploy.variants import NetworkSpec

    if memory == "kept":
        keep_freed_memory()
    network = AlexNet(NetworkSpec(variant="paper", classes=10))
    initialize(network, 0)
    if lrn == "torch":
        spec = network.spec.family.lrn
        assert spec is not None
        for name in ("norm1", "norm2"):
            setattr(network, name, nn.LocalResponseNorm(spec.size, spec.alpha, spec.beta, spec.bias))
    network = network.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, fused=True)
    images = torch.randn(BATCH, 3, 224, 224).to(memory_format=torch.channels_last)
    labels = torch.randint(0, 10, (BATCH,))
    speeds = []
    for _ in range(WARM_UP_STEPS + STEPS):
        started = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=uses_bf16("auto", "cpu")):
            logits = network(images)
        optimizer.zero_grad()
        F.cross_entropy(logits.float(), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        speeds.append(BATCH / (time.perf_counter() - started))
    return speeds[WARM_UP_STEPS:]


def main(turns: int) -> None:
    """Runs all the ways in turns and writes medians, spreads and ratios."""
    samples: dict[str, list[float]] = {way: [] for way in WAYS}
    per_turn: dict[str, list[float]] = {way: [] for way in WAYS}
    for turn in range(turns):
        for way, (lrn, memory) in WAYS.items():
            command = [sys.executable, "-m", "benchmarks.training_speed", "--worker", lrn, memory]
            speeds = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            samples[way] += speeds
            per_turn[way].append(statistics.median(speeds))
            print(f"turn {turn + 1}/{turns}  {way}: {statistics.median(speeds):.1f} images/s", file=sys.stderr)
    base = next(iter(WAYS))
    rows = []
    for way in WAYS:
        ratios = [ours / theirs for ours, theirs in zip(per_turn[way], per_turn[base], strict=True)]
        rows.append(
            {
                "way": way,
                "images_per_second_median": round(statistics.median(samples[way]), 2),
                "images_per_second_min_max": [round(min(samples[way]), 2), round(max(samples[way]), 2)],
                "ratio_to_torch_median": round(statistics.median(ratios), 3),
                "ratio_to_torch_min_max": [round(min(ratios), 3), round(max(ratios), 3)],
                "samples": [round(sample, 3) for sample in samples[way]],
            }
        )
    document = {
        "schema": 1,
        "what": "training, paper variant, 10 classes, 224 pixels, batch 64, AdamW",
        "turns": turns,
        "steps_per_turn": STEPS,
        "environment": environment(),
        "rows": rows,
    }
    write_json(RESULT, document)
    for row in rows:
        print(f"{row['images_per_second_median']:7.1f} images/s  {row['ratio_to_torch_median']:.2f}x  {row['way']}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        print(json.dumps(one_turn(sys.argv[2], sys.argv[3])))
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
