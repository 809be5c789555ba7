"""Writes the tables of docs/int8.md from the recorded results: `python -m benchmarks.int8_tables`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks import peer_tables
from benchmarks.blocks import DOCS, replace_block
from benchmarks.peers import recorded

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
        document = recorded(peers)
        page = f"{peer_tables.rows_table(document, 'int8')}\n\n{peer_tables.environment_line(document)}"
        replace_block(DOCS / "int8.md", "int8-peers", page)
        replace_block(DOCS / "int8.md", "int8-calibration", peer_tables.costs_table(document))


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


if __name__ == "__main__":
    main()
