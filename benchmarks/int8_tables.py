"""Writes the tables of docs/int8.md from the recorded results: `python -m benchmarks.int8_tables`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.blocks import DOCS, replace_block

RESULTS = Path(__file__).parent / "results"
_TARGETS = {"onnxruntime-cpu": "ONNX Runtime", "openvino": "OpenVINO", "tensorrt-rtx": "TensorRT-RTX (simulated)"}


def main() -> None:
    """Writes every block whose result is there."""
    accuracy = json.loads((RESULTS / "int8-accuracy.json").read_text())
    for part in ("rounding", "methods", "images", "low-bits"):
        if part in accuracy:
            replace_block(DOCS / "int8.md", f"int8-{part}", accuracy_table(accuracy[part]))
    peers = RESULTS / "peers.json"
    if peers.is_file():
        document = json.loads(peers.read_text())
        replace_block(DOCS / "int8.md", "int8-peers", peers_table(document))
        replace_block(DOCS / "int8.md", "int8-calibration", calibration_table(document))


def accuracy_table(part: dict[str, Any]) -> str:
    """One row a way, the targets beside each other."""
    rows = part["rows"]
    targets = list(dict.fromkeys(row["target"] for row in rows))
    lines = [
        "| way | " + " | ".join(_TARGETS[target] for target in targets) + " |",
        "| --- |" + " --- |" * len(targets),
    ]
    for way in dict.fromkeys(row["way"] for row in rows):
        cells = []
        for target in targets:
            row = next((row for row in rows if (row["way"], row["target"]) == (way, target)), None)
            cells.append("" if row is None else _accuracy(row))
        lines.append(f"| {way} | " + " | ".join(cells) + " |")
    environment = part["environment"]
    lines += [
        "",
        f"{part['images']:,} test images of {part['data']}; {environment['cpu']}. SQNR of the logits, agreement",
    ]
    lines += ["of the first class with FP32, points of top-1 lost (negative: won)."]
    return "\n".join(lines)


def _accuracy(row: dict[str, Any]) -> str:
    return f"{row['sqnr_db']:.1f} dB, {100 * row['agreement']:.2f} %, {100 * row['drop']:+.2f}"


def peers_table(document: dict[str, Any]) -> str:
    """One row a way, runtime and hint, with both batches."""
    rows = document["rows"]
    batches = sorted({row["batch"] for row in rows})
    lines = [
        "| runtime | way | "
        + " | ".join(f"batch {batch} (ms) | ours is faster" for batch in batches)
        + " | top-1 lost | as FP32 |",
        "| --- | --- |" + " --- | --- |" * len(batches) + " --- | --- |",
    ]
    for runtime, hint, way in dict.fromkeys((row["runtime"], row["hint"], row["way"]) for row in rows):
        found = {row["batch"]: row for row in rows if (row["runtime"], row["hint"], row["way"]) == (runtime, hint, way)}
        cells = []
        for batch in batches:
            ratio, median = found[batch]["ours_faster"], found[batch]["latency_ms"]["median"]
            cells += [f"{median:.1f}", f"{ratio['median']:.2f}x ({ratio['ci95'][0]:.2f} to {ratio['ci95'][1]:.2f})"]
        first = found[batches[0]]
        label = _TARGETS[runtime] + (f", {hint} hint" if hint else "")
        lines.append(
            f"| {label} | {way} | "
            + " | ".join(cells)
            + f" | {100 * first['drop']:+.2f} | {100 * first['agreement']:.2f} % |"
        )
    environment = document["environment"]
    tools = ", ".join(
        sorted({f"{n.split(',')[0]} {f['version']}" for n, f in document["peers"].items() if "version" in f})
    )
    packages = environment["packages"]
    onnxruntime = packages.get("onnxruntime-gpu") or packages.get("onnxruntime")
    lines += [
        "",
        f"{environment['cpu']}, {environment['cpus']} cores; {document['what']}; accuracy on",
        f"{rows[0]['images']:,} test images. onnxruntime {onnxruntime}, openvino {packages.get('openvino')}, {tools}.",
    ]
    return "\n".join(lines)


def calibration_table(document: dict[str, Any]) -> str:
    """Seconds and peak memory of every run."""
    lines = ["| tool | images | seconds | peak memory (GB) |", "| --- | --- | --- | --- |"]
    for row in document["calibration"]:
        lines.append(
            f"| {row['tool']} | {row['images']} | {row['seconds']:.1f} | {row['peak_memory_bytes'] / 1e9:.2f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
