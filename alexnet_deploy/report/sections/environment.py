"""Where it was measured, under which conditions, and the passports of what was measured."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from alexnet_deploy.report.markup import bullets, escape, heading, scrolled, table
from alexnet_deploy.report.words import fixed, warnings_of

_GPU_HEAD = ("GPU", "when", "SM MHz", "memory MHz", "°C", "W", "throttled by")


def environment(document: Mapping[str, Any]) -> str:
    """The machine, its packages and the model."""
    found, model, options = document["environment"], document["model"], document["options"]
    flags = ", ".join(map(str, found["cpu_flags"])) or "no notable flags"
    rows = [
        ["CPU", f"{found['cpu']} ({found['cpus']} usable; {flags})"],
        ["memory", f"{found['memory_bytes'] / 1e9:.0f} GB" if found["memory_bytes"] else ""],
        ["CUDA devices", str(found["gpus"])],
        ["system", f"{found['system']}, Python {found['python']}"],
        ["packages", ", ".join(f"{name} {version}" for name, version in found["packages"].items())],
        ["model", f"{model['source']}" + (f", SHA-256 {model['sha256']}" if model.get("sha256") else "")],
        ["preprocessing", ", ".join(f"{name} {value}" for name, value in (model.get("preprocessing") or {}).items())],
        ["asked for", ", ".join(f"{name} {value}" for name, value in options.items())],
        ["took", f"{document['seconds']:.0f} seconds" if document.get("seconds") else ""],
    ]
    return table("Environment", ("what", "value"), [row for row in rows if row[1]], texts=2, wide="wrap")


def conditions(document: Mapping[str, Any]) -> str:
    """Load, stolen time, and the state of GPUs before and after."""
    found = document.get("conditions")
    if not found:
        return ""
    rows = [
        ["CPUs busy before", fixed(found.get("busy_cpus"), 2)],
        ["CPU time stolen by other machines", _share(found.get("steal_share"))],
    ]
    gpus = [
        [
            str(gpu.get("name", "")),
            str(gpu.get("at", "")),
            *(_number(gpu.get(name)) for name in ("sm_mhz", "memory_mhz", "temperature_c", "power_w")),
            "not known" if gpu.get("throttle") is None else ", ".join(map(str, gpu["throttle"])) or "nothing",
        ]
        for gpu in found.get("gpu") or []
    ]
    body = bullets(warnings_of(document)) + table(
        "Conditions", ("what", "value"), [row for row in rows if row[1]], texts=2
    )
    body += table("State of the GPUs", _GPU_HEAD, gpus, texts=2)
    return heading("Conditions") + body if body else ""


def passports(document: Mapping[str, Any]) -> str:
    """Each passport as JSON, folded."""
    parts = []
    for entry in document.get("passports") or []:
        name = str(entry["file"])
        text = json.dumps(entry["passport"], indent=1, ensure_ascii=False)
        body = scrolled(f"Passport of {name}", f"<pre>{escape(text)}</pre>")
        parts.append(f"<details><summary>{escape(name)}</summary>{body}</details>")
    return "".join(parts)


def _share(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f} %"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:g}"
