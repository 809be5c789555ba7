"""The peers' document as Markdown, and as sentences; nothing here measures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

SCHEMA = 2
RUNTIMES = {"onnxruntime-cpu": "ONNX Runtime", "openvino": "OpenVINO"}
_SUBJECTS = {"lrn": "LRN", "int8": "INT8"}
_OWN_TOOLS = {
    "onnxruntime-cpu": "onnxruntime_perf_test",
    "openvino": "benchmark_app",
}


def markdown(document: dict[str, Any]) -> str:
    """The whole page."""
    parts = [
        "# Against the vendors' tools",
        "Made by `python -m benchmarks.peers` from [peers.json](peers.json); `--render` writes it anew.",
        f"Of {document['what']}.",
        "## Ratios",
        ratios_table(document),
        "## FP32",
        rows_table(document, "fp32"),
        "## INT8",
        rows_table(document, "int8"),
        "## What calibration costs",
        costs_table(document),
        "## Left out",
        _left_out(document),
        "## Settings",
        _settings(document),
        "## The same by the runtimes' own tools",
        cross_check_table(document),
        "## Where",
        environment_line(document),
    ]
    return "\n\n".join(parts) + "\n"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *rows)]
    return "\n".join(lines)


def _ratio(ratio: dict[str, Any]) -> str:
    return f"{ratio['median']:.2f}x ({ratio['ci95'][0]:.2f} to {ratio['ci95'][1]:.2f})"


def ratios_table(document: dict[str, Any]) -> str:
    """What the issues on LRN and INT8 speak of."""
    rows = [
        [
            _SUBJECTS[ratio["subject"]],
            RUNTIMES[ratio["runtime"]],
            str(ratio["batch"]),
            ratio["what"],
            _ratio(ratio["ours_faster"]),
            _named(ratio["other"]),
        ]
        for ratio in sorted(document["ratios"], key=lambda ratio: str(ratio["subject"]), reverse=True)
    ]
    return _table(["", "runtime", "batch", "ours", "is faster", "the other"], rows)


def _named(other: dict[str, Any]) -> str:
    return f"{other['way']}, {other['hint']} hint" if other["hint"] else str(other["way"])


def rows_table(document: dict[str, Any], precision: str) -> str:
    """One row a way, runtime and hint, with all batches."""
    rows = [row for row in document["rows"] if row["precision"] == precision]
    batches = sorted({row["batch"] for row in rows})
    heads = ["runtime", "way"]
    for batch in batches:
        heads += [f"batch {batch} (ms)", "ours is faster"]
    lines = []
    for runtime, hint, way in dict.fromkeys((row["runtime"], row["hint"], row["way"]) for row in rows):
        found = {row["batch"]: row for row in rows if (row["runtime"], row["hint"], row["way"]) == (runtime, hint, way)}
        cells = [RUNTIMES[runtime] + (f", {hint} hint" if hint else ""), way]
        for batch in batches:
            cells += [f"{found[batch]['latency_ms']['median']:.1f}", _ratio(found[batch]["ours_faster"])]
        first = found[batches[0]]
        cells += [f"{100 * first['drop']:+.2f}", f"{first['flips']['p_value']:.2f}"]
        cells += [f"{100 * first['agreement']:.2f} %", f"{(first['peak_memory_bytes'] or 0) / 1e6:.0f}"]
        lines.append(cells)
    return _table([*heads, "top-1 lost", "p", "as FP32", "memory (MB)"], lines)


def costs_table(document: dict[str, Any]) -> str:
    """Calibration alone where the tool tells it, the whole way to the quantized file, and what came of it."""
    heads = ["tool", "images", "calibration (s)", "memory (GB)", "whole (s)", "memory (GB)", "top-1 lost", "as FP32"]
    rows = []
    for cost in document["calibration"]:
        accuracy = cost["accuracy"]
        rows.append([cost["way"], str(cost["images"]), *_cost(cost["calibration"]), *_cost(cost["whole"])])
        rows[-1] += [f"{100 * accuracy['drop']:+.2f}", f"{100 * accuracy['agreement']:.2f} %"] if accuracy else ["", ""]
    turns = max((cost["turns"] for cost in document["calibration"]), default=0)
    return "\n".join(
        [
            _table(heads, rows),
            "",
            f"Medians of {turns} turns with their extremes, each in a process of its own, and its peak memory. Ours",
            "reads and prepares its images within its time and finds thresholds by all four methods; the peers get",
            "images prepared. Accuracy is that of the result in the first runtime that takes it.",
        ]
    )


def _cost(cost: dict[str, Any] | None) -> list[str]:
    if cost is None:
        return ["", ""]
    spread = f"{cost['median_s']:.1f} ({cost['min_s']:.1f} to {cost['max_s']:.1f})"
    return [spread, f"{cost['peak_memory_bytes'] / 1e9:.2f}"]


def _left_out(document: dict[str, Any]) -> str:
    lines = [f"- {entry['peer']}: {' '.join(entry['reason'].split())}" for entry in document["left_out"]]
    return "\n".join(lines) or "Nothing."


def _settings(document: dict[str, Any]) -> str:
    told = document["settings"]
    lines = [told["rule"], ""]
    for runtime, tool in _OWN_TOOLS.items():
        lines += [f"- {RUNTIMES[runtime]}: `{told[runtime][tool]}`", f"  ({told[runtime]['notes']})"]
    lines += [f"- {peer}: {told[peer]}" for peer in ("quantize_static", "nncf", "modelopt", "ours")]
    return "\n".join(lines)


def cross_check_table(document: dict[str, Any]) -> str:
    """Our artifacts by the vendors' tools, beside their rows."""
    rows = []
    for check in document["cross_check"]:
        precision = check["precision"].upper() + (f", {check['hint']} hint" if check["hint"] else "")
        cells = [check["tool"], RUNTIMES[check["runtime"]], precision, str(check["batch"])]
        if "reason" in check:
            rows.append([*cells, " ".join(check["reason"].split()), "", ""])
        else:
            rows.append([*cells, f"{check['median_ms']:.2f}", f"{check['ours_ms']:.2f}", f"{check['ratio']:.2f}"])
    table = _table(["tool", "runtime", "precision", "batch", "its median (ms)", "our row (ms)", "ratio"], rows)
    notes = dict.fromkeys(check["notes"] for check in document["cross_check"] if "notes" in check)
    return "\n".join([table, "", *(f"{note}." for note in notes), "Taken after the run, one after another."])


def environment_line(document: dict[str, Any]) -> str:
    """CPU, tools and images."""
    here, packages = document["environment"], document["environment"]["packages"]
    tools = {"onnxruntime": packages.get("onnxruntime-gpu") or packages.get("onnxruntime")}
    tools |= {name: packages.get(name) for name in ("openvino", "torch")}
    for name, made in document["environments"].items():
        tools[name] = made["packages"].get("nvidia-modelopt" if name == "modelopt" else name)
    versions = ", ".join(f"{name} {version}" for name, version in tools.items() if version)
    return (
        f"{here['cpus']} cores of an {here['cpu']} ({', '.join(here['cpu_flags'])}); accuracy on "
        f"{document['images']['evaluation']:,} images; {versions}."
    )


def summary(document: dict[str, Any]) -> list[str]:
    """A line a ratio, and a line for whatever is missing."""
    lines = [
        f"{_SUBJECTS[ratio['subject']]:5} {RUNTIMES[ratio['runtime']]:12} batch {ratio['batch']:2}: ours is "
        f"{_ratio(ratio['ours_faster'])} as fast, {ratio['what']} ({_named(ratio['other'])})"
        for ratio in sorted(document["ratios"], key=lambda ratio: str(ratio["subject"]), reverse=True)
    ]
    return lines + [f"left out: {entry['peer']}: {entry['reason']}" for entry in document["left_out"]]
