"""Documents of `bench --json` that the tests of reports share: small, whole, and hostile ones."""

from __future__ import annotations

import base64
import copy
import io
import random
from typing import Any

from PIL import Image

HOSTILE = '<script>alert("x")</script>&\'"'
BATCHES = (1, 16)
LAYERS = ("conv1", "norm1", "fc6")
# Their values are figures of the document, or names that its own code gives.
_KEPT = frozenset({"status", "png", "made"})
# Dictionaries whose keys are texts from elsewhere.
_OPEN = frozenset({"packages", "macs_per_second", "preprocessing", "passport", "facts"})


def row_of(runtime: str, precision: str, batch: int, median: float, **changes: Any) -> dict[str, Any]:
    """A row that ran."""
    noise = random.Random(f"{runtime} {precision} {batch}")
    return {
        "key": f"{runtime}/{precision}/{batch}",
        "runtime": runtime,
        "precision": precision,
        "batch": batch,
        "threads": 2,
        "hint": None,
        "lrn": "native",
        "status": "ok",
        "reason": None,
        "scope": "compute+copies",
        "latency_ms": {
            "median": median,
            "p90": median * 1.1,
            "p99": median * 1.2,
            "min": median * 0.9,
            "ci95": [median * 0.98, median * 1.02],
            "runs": 50,
            "noisy": False,
        },
        "samples_ms": [median * noise.uniform(0.9, 1.2) for _ in range(50)],
        "cold_start_ms": 123.4,
        "peak_memory_bytes": 512_000_000,
        "throughput_ips": round(batch / median * 1e3, 2),
        "top1": 0.9135,
        "top5": 0.9981,
        "agreement": 0.9875,
        "sqnr_db": 31.25,
        "ece": 0.0123,
        "flips": {"lost": 12, "won": 5, "p_value": 0.1435},
        "size_bytes": 243_861_504,
        "roofline": None,
    } | changes


def skipped(runtime: str, precision: str, batch: int, reason: str, status: str = "skipped") -> dict[str, Any]:
    """A row that did not run."""
    nothing = dict.fromkeys(
        ("latency_ms", "cold_start_ms", "peak_memory_bytes", "throughput_ips", "top1", "top5", "agreement", "sqnr_db",
         "ece", "flips")
    )  # fmt: skip
    return row_of(runtime, precision, batch, 1.0, status=status, reason=reason, samples_ms=[], **nothing)


def document() -> dict[str, Any]:
    """A bench of schema 1: what a report has to be able to show still."""
    rows = []
    for batch in BATCHES:
        rows += [
            row_of("torch", "fp32", batch, 41.37 * batch, sqnr_db=None, agreement=1.0),
            row_of("onnxruntime-cpu", "fp32", batch, 20.46 * batch),
            row_of("onnxruntime-cpu", "int8", batch, 10.23 * batch, top1=0.9085),
            row_of("openvino", "int8", batch, 8.75 * batch),
            skipped("tensorrt-rtx", "int8", batch, "built, not run: no CUDA device"),
            skipped("openvino", "fp32", batch, "line one\nline two", status="failed"),
        ]
    return {
        "schema": 1,
        "made": "2026-01-02T03:04:05+00:00",
        "environment": {
            "cpu": "A processor @ 2.50GHz",
            "cpu_family": "6/85/7",
            "cpus": 2,
            "cpu_flags": ["avx2"],
            "memory_bytes": 8_000_000_000,
            "gpus": 0,
            "system": "Linux x86_64",
            "python": "3.11.7",
            "packages": {"torch": "2.9.0", "onnxruntime-gpu": "1.24.0"},
        },
        "model": {"name": "alexnet", "network": None, "preprocessing": {}, "labels": [], "source": "a.safetensors"},
        "data": {"name": "shipped evaluation", "images": 2000, "skipped": 0, "labelled": True},
        "options": {"batches": [1, 16], "runs": 50, "rounds": 5},
        "rows": rows,
    }


def whole_document() -> dict[str, Any]:
    """A bench of schema 2 with every part."""
    whole = document()
    for batch in BATCHES:
        whole["rows"].append(row_of("openvino", "bf16", batch, 12.5 * batch, hint="bf16", key=f"openvino/bf16/{batch}"))
        whole["rows"].append(
            row_of(
                "openvino", "int8", batch, 30.0 * batch, hint="throughput", in_flight=4,
                key=f"openvino/int8+throughput/{batch}", throughput_ips=470.0,
            )
        )  # fmt: skip
    for row in whole["rows"]:
        row |= {"in_flight": row.get("in_flight", 1), "cosine": None if row["agreement"] is None else 0.999912}
        row["anchor_ms"] = {"compute": [1.0] * 5, "memory": [2.0] * 5}
        if row["status"] == "ok":
            row["roofline"] = {
                "bound": "memory" if row["batch"] == 1 else "compute", "limit_ms": 0.62 * row["latency_ms"]["median"],
                "fraction": 0.62, "macs": 1_100_000_000 * row["batch"], "bytes": 57_000_000,
            }  # fmt: skip
    whole |= {"schema": 2, "seconds": 150.2, "sessions": _sessions(whole["rows"]), **_measured(), **_accuracies()}
    whole["options"] |= {"threads": 2, "scope": "compute+copies"}
    whole["conditions"] = {
        "busy_cpus": 1.31,
        "steal_share": 0.034,
        "gpu": [
            {
                "at": "before", "name": "A card", "sm_mhz": 1980, "memory_mhz": 2619, "temperature_c": 41,
                "power_w": 120.5, "throttle": ["power"],
            }
        ],
        "warnings": ["the load average was 1.31: something else was running"],
    }  # fmt: skip
    front = ["openvino/int8/{}"]
    whole["recommendation"] = [
        {
            "batch": batch, "key": f"openvino/int8/{batch}", "front": [key.format(batch) for key in front],
            "sentence": f"For batch {batch} deploy openvino int8, because nothing is faster.",
        }
        for batch in BATCHES
    ]  # fmt: skip
    return whole


def _sessions(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {name: row[name] for name in ("runtime", "precision", "hint", "lrn", "status", "reason", "size_bytes")}
        | {
            "name": row["key"].rpartition("/")[0],
            "artifact": f"alexnet.{row['precision']}.onnx",
            "load_ms": None if row["cold_start_ms"] is None else 100.0,
            "first_inference_ms": None if row["cold_start_ms"] is None else 23.4,
            "cold_start_ms": row["cold_start_ms"],
            "peak_memory_bytes": row["peak_memory_bytes"],
        }
        for row in rows
        if row["batch"] == BATCHES[0]
    ]


def _measured() -> dict[str, Any]:
    layers = [
        {
            "name": name,
            "ms": 1.5,
            "limit_ms": None if name == "norm1" else 0.9,
            "bound": None if name == "norm1" else bound,
        }
        for name, bound in zip(LAYERS, ("compute", None, "memory"), strict=True)
    ]
    return {
        "peaks": {
            "device": "cpu",
            "threads": 2,
            "read_bytes_per_second": 2.1e10,
            "macs_per_second": {"fp32": 1.6e11, "bf16": 3.1e11, "int8": 5.8e11},
            "with": {"read": "a sum", "fp32": "torch.mm"},
        },
        "network": [
            {"name": name, "op": "conv", "output": [96, 55, 55], "parameters": 1, "macs": 1, "weight_bytes": 4}
            for name in LAYERS
        ],
        "profiles": [
            {"session": session, "batch": batch, "total_ms": 5.0, "layers": copy.deepcopy(layers), "other_ms": 0.5}
            for session, batch in (("openvino/int8", 1), ("onnxruntime-cpu/int8", 1), ("openvino/int8", 16))
        ],
        "calibration": {
            "method": "percentile",
            "images": 512,
            "tensors": [
                {
                    "name": name, "min": -1.0, "max": 12.0, "zero_share": 0.3, "limit": 12.5,
                    "shares": [0.0 if index % 5 == 4 else 0.5 / (index + 1) ** 2 for index in range(128)],
                    "thresholds": {"max": 12.0, "percentile": 9.5, "entropy": 7.25, "mse": 8.0},
                }
                for name in ("input", "relu1", "logits")
            ],
        },
    }  # fmt: skip


def _accuracies() -> dict[str, Any]:
    return {
        "sensitivity": {
            "images": 500,
            "session": "onnxruntime-cpu/fp32",
            "rows": [
                {
                    "what": "interpolation nearest instead of bilinear", "kind": "preprocessing", "top1": 0.872,
                    "agreement": 0.921, "flips": {"lost": 28, "won": 6, "p_value": 0.0002},
                }
            ],
        },
        "confusion": {
            "labels": ["Shirt", "Coat", "Bag"],
            "session": "openvino/int8",
            "counts": [[50, 3, 0], [2, 60, 0], [0, 0, 70]],
            "reference": "torch/fp32",
            "reference_counts": [[52, 1, 0], [2, 60, 0], [0, 0, 70]],
        },
        "flipped": [
            {"session": "openvino/int8", "index": index, "label": "Shirt", "reference": "Shirt", "predicted": "Coat",
             "png": _png(index)}
            for index in (17, 230)
        ],
        "passports": [{"file": "alexnet.int8.onnx", "passport": {"schema": 2, "facts": {"rounding": "gptq"}}}],
    }  # fmt: skip


def _png(seed: int) -> str:
    target = io.BytesIO()
    Image.frombytes("L", (28, 28), random.Random(seed).randbytes(28 * 28)).save(target, "PNG")
    return base64.b64encode(target.getvalue()).decode()


def crowded_document(rows: int = 40) -> dict[str, Any]:
    """So many rows that their labels have no room."""
    crowded = document()
    crowded["options"]["batches"] = [1]
    crowded["rows"] = [
        row_of(f"runtime-with-a-name-{index}", "fp32", 1, 10 + index / 10, top1=0.9 + index % 3 / 1000)
        for index in range(rows)
    ]
    return crowded


def many_classes_document(classes: int = 50) -> dict[str, Any]:
    """As many classes as a confusion matrix is made of."""
    values = whole_document()
    counts = [
        [(90 if row == column else (row + column) % 7 == 0) * 1 for column in range(classes)] for row in range(classes)
    ]
    labels = [f"a class with a long name {index}" for index in range(classes)]
    values["confusion"] |= {"labels": labels, "counts": counts, "reference_counts": counts}
    return values


def spoiled(value: Any, inside: str = "") -> Any:
    """The same with markup at the end of every text; equal texts stay equal, so that all still belongs together."""
    if isinstance(value, dict):
        return {
            (f"{name}{HOSTILE}" if inside in _OPEN else name): entry if name in _KEPT else spoiled(entry, name)
            for name, entry in value.items()
        }
    if isinstance(value, list):
        return [spoiled(entry) for entry in value]
    return f"{value}{HOSTILE}" if isinstance(value, str) else value
