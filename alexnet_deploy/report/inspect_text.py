"""The documents of `inspect` as text."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from alexnet_deploy.precision.findings import lines_from_facts
from alexnet_deploy.printable import printable


def print_inspection(document: dict[str, Any], console: Console) -> None:
    """Prints a document of `inspect`, whatever its kind."""
    for line in _heading(document):
        console.print(printable(line), highlight=False, markup=False, soft_wrap=True)
    if document["kind"] == "calibration":
        console.print(_ranges(document))
    elif document["kind"] == "kernel":
        for table in (_kernels(document), _traffic(document)):
            console.print(table)
    elif document["kind"] in ("variant", "checkpoint"):
        console.print(_textbook(document))
    else:
        console.print(_layers(document))


def _heading(document: dict[str, Any]) -> list[str]:
    lines = []
    if document["path"]:
        lines.append(f"{document['kind']} {document['path']}, {document['size_bytes'] / 1e6:.1f} MB")
        lines.append(f"sha256 {document['sha256']}")
    network = document.get("network") or (document.get("model") or {}).get("network")
    if network:
        lines.append(
            f"variant {network['variant']}, {network['classes']} classes, input 3x{network['image_size']}x"
            f"{network['image_size']}" + (f", width {network['width']:g}" if network["width"] != 1 else "")
        )
    if document.get("summary"):
        lines.append(document["summary"])
    if document["sms"] and document["kind"] == "engine":
        lines.append(f"for {', '.join(document['sms'])}; {document['reformats']} kernels only move or cast data")
        counts = ", ".join(f"{count} in {name}" for name, count in document["layers_by_precision"].items())
        lines.append(f"convolutions and fully connected layers: {counts}")
    if document["weight_bytes_by_type"]:
        by_type = ", ".join(f"{name} {size / 1e6:.2f} MB" for name, size in document["weight_bytes_by_type"].items())
        lines.append(f"weights by type: {by_type}")
    facts = (document["passport"] or {}).get("facts", {})
    if facts.get("lrn_reason"):
        form = [name.replace("_", " ") for name in ("contain_nan", "channels_last") if facts.get(name)]
        lines.append(f"LRN {', '.join([str(facts.get('lrn')), *form])}: {facts['lrn_reason']}")
    lines += lines_from_facts(facts)
    if document.get("plugins"):
        names = ", ".join(document["plugins"])
        lines.append(f"LRN plugins: {names}; with kernels for {', '.join(document['plugin_sms'])}")
    if document["path"] and document["passport"] is None and document["kind"] in ("engine", "onnx"):
        lines.append("no passport beside it, or a damaged one")
    if document.get("passport_matches") is False:
        lines.append("THE PASSPORT BESIDE IT IS OF ANOTHER FILE: the hashes differ")
    return lines


def _said(text: object) -> Text:
    """A text from a file: neither controls nor markup."""
    return Text(printable(text))


def _shape(sides: list[int]) -> str:
    return "x".join(str(side) if side else "?" for side in sides)


def _textbook(document: dict[str, Any]) -> Table:
    density = document.get("density") or {}
    table = Table(show_footer=True)
    table.add_column("layer", "total")
    table.add_column("what")
    table.add_column("output", no_wrap=True)
    table.add_column("how it comes about")
    table.add_column("parameters", f"{_total(document, 'parameters'):,}", justify="right", no_wrap=True)
    table.add_column("multiply-adds", f"{_total(document, 'macs'):,}", justify="right", no_wrap=True)
    table.add_column("bytes in FP32", f"{_total(document, 'weight_bytes'):,}", justify="right", no_wrap=True)
    if density:
        table.add_column("nonzero", justify="right")
    for layer in document["layers"]:
        if layer["type"] in ("relu", "dropout"):
            continue
        cells = [
            _said(layer["name"]),
            _what(layer),
            _shape(layer["output"]),
            layer["arithmetic"],
            f"{layer['parameters']:,}" if layer["parameters"] else "",
            f"{layer['macs']:,}" if layer["macs"] else "",
            f"{layer['weight_bytes']:,}" if layer["weight_bytes"] else "",
        ]
        if density:
            cells.append(f"{100 * density[layer['name']]:.1f} %" if layer["name"] in density else "")
        table.add_row(*cells)
    return table


def _total(document: dict[str, Any], key: str) -> int:
    return sum(layer[key] for layer in document["layers"])


def _what(layer: dict[str, Any]) -> str:
    match layer["type"]:
        case "conv":
            groups = f", {layer['groups']} groups" if layer["groups"] > 1 else ""
            kernel = f"{layer['kernel']}x{layer['kernel']}"
            return f"conv {kernel}, stride {layer['stride']}, pad {layer['padding']}{groups}, ReLU"
        case "pool":
            return f"max pool {layer['kernel']}x{layer['kernel']}, stride {layer['stride']}"
        case "lrn":
            return f"LRN over {layer['kernel']} channels"
        case "linear":
            return "fully connected" + (", ReLU, dropout" if layer["name"] != "fc8" else "")
    return str(layer["type"])


def _layers(document: dict[str, Any]) -> Table:
    table = Table()
    for name in ("layer", "op", "precision", "output"):
        table.add_column(name)
    for name in ("parameters", "multiply-adds", "weight bytes"):
        table.add_column(name, justify="right")
    for layer in document["layers"]:
        table.add_row(
            *(_said(text) for text in (layer["name"], layer.get("type", layer["op"]), layer["precision"])),
            _shape(layer["output"]),
            *(f"{layer[key]:,}" if layer[key] else "" for key in ("parameters", "macs", "weight_bytes")),
        )
    return table


def _kernels(document: dict[str, Any]) -> Table:
    table = Table(title="alexnet_deploy::LocalResponseNorm, compiled ahead of time", title_justify="left")
    for name in ("kernel", "layout", "precision", "SM"):
        table.add_column(name)
    for name in ("threads", "registers", "spilled bytes", "shared bytes", "code bytes"):
        table.add_column(name, justify="right")
    for row in document["kernels"]:
        numbers = (row[key] for key in ("threads", "registers", "spill_bytes", "shared_bytes", "cubin_bytes"))
        kernel = "LRN and pool" if row["pooled"] else "LRN"
        table.add_row(kernel, row["layout"], row["precision"], row["sm"], *(f"{number:,}" for number in numbers))
    return table


def _traffic(document: dict[str, Any]) -> Table:
    gpus = list(document["traffic"][0]["microseconds"]) if document["traffic"] else []
    table = Table(title="memory traffic on paper, paper variant: not measured", title_justify="left")
    for name in ("norm", "batch", "precision", "way"):
        table.add_column(name)
    for name in ("MB", *(f"µs on {gpu}" for gpu in gpus)):
        table.add_column(name, justify="right")
    for row in document["traffic"]:
        times = (f"{row['microseconds'][gpu]:.2f}" for gpu in gpus)
        table.add_row(row["norm"], str(row["batch"]), row["precision"], row["way"], f"{row['bytes'] / 1e6:.2f}", *times)
    return table


def _ranges(document: dict[str, Any]) -> Table:
    method = document["method"]
    table = Table(title=f"{document['images']} images; thresholds, {method} in use", title_justify="left")
    table.add_column("tensor")
    methods = ("max", "percentile", "entropy", "mse")
    for name in ("min", "max seen", *methods, "scale in use"):
        table.add_column(name, justify="right")
    for name, entry in document["tensors"].items():
        numbers = [entry["min"], entry["max"], *(entry["thresholds"][m] for m in methods), entry["scales"][method]]
        table.add_row(_said(name), *(f"{number:.5g}" for number in numbers))
    return table
