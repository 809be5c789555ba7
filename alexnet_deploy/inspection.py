"""What a file is: a checkpoint, an ONNX graph, an engine or a calibration table, layer by layer."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alexnet_deploy.artifacts import Passport, read_passport
from alexnet_deploy.errors import ArtifactError, InputError
from alexnet_deploy.files import sha256_of
from alexnet_deploy.limits import MAX_ENGINE_BYTES, bounded_bytes
from alexnet_deploy.progress import SILENT, Voice
from alexnet_deploy.specs import Precision
from alexnet_deploy.variants import NetworkSpec, layers_from_network
from alexnet_deploy.weights import CHECKPOINT_SUFFIXES, shipped_checkpoint

INSPECT_SCHEMA = 1
_OPS = {"conv": "conv", "linear": "linear", "lrn": "lrn", "pool": "pool"}


def inspect_variant(spec: NetworkSpec) -> dict[str, Any]:
    """The document of a variant: shapes, parameters and multiply-adds, without any weights."""
    layers = [
        {
            "name": layer.name,
            "op": _OPS.get(layer.op, "other"),
            "type": layer.op,
            "precision": "fp32",
            "input": list(layer.input),
            "output": list(layer.output),
            "kernel": layer.kernel,
            "stride": layer.stride,
            "padding": layer.padding,
            "groups": layer.groups,
            "arithmetic": layer.arithmetic,
            "parameters": layer.parameters,
            "macs": layer.macs,
            "weight_bytes": 4 * layer.parameters,
        }
        for layer in layers_from_network(spec)
    ]
    return {
        "schema": INSPECT_SCHEMA,
        "kind": "variant",
        "path": None,
        "sha256": None,
        "size_bytes": None,
        "sms": [],
        "passport": None,
        "network": spec.to_json(),
        "summary": spec.family.summary,
        "weight_bytes_by_type": {"fp32": sum(layer["weight_bytes"] for layer in layers)},
        "reformats": 0,
        "layers": layers,
    }


def inspect_kernel(precisions: Sequence[Precision] | None = None, *, voice: Voice = SILENT) -> dict[str, Any]:
    """The document of the LRN kernel: what ptxas says of it for every SM, and the traffic it saves, on paper.

    Raises:
        MissingDependencyError: Triton is not installed.
    """
    from alexnet_deploy.lrn.cubin import KERNEL_PRECISIONS, KERNEL_SMS, kernel_from_spec
    from alexnet_deploy.lrn.kernel_spec import KernelSpec
    from alexnet_deploy.lrn.roofline import traffic

    network = NetworkSpec()
    lrn = network.family.lrn
    assert lrn is not None
    requests = [
        (KernelSpec(lrn=lrn, pooled=pooled, channels_last=channels_last), precision, sm)
        for precision in precisions or KERNEL_PRECISIONS
        for pooled in (False, True)
        for channels_last in (False, True)
        for sm in KERNEL_SMS
        if (sm, precision) != (75, Precision.BF16)
    ]
    with voice.track("compile", len(requests)) as track:
        kernels = []
        for request in requests:
            kernels.append(kernel_from_spec(*request).to_json())
            track.advance()
    rows = [
        {"batch": batch, "precision": precision.value, **row.to_json()}
        for precision in precisions or KERNEL_PRECISIONS
        if precision is not Precision.BF16
        for batch in (1, 16)
        for row in traffic(network, precision, batch)
    ]
    return {
        "schema": INSPECT_SCHEMA,
        "kind": "kernel",
        "path": None,
        "sha256": None,
        "size_bytes": None,
        "sms": [f"sm{sm}" for sm in KERNEL_SMS],
        "passport": None,
        "weight_bytes_by_type": {},
        "reformats": 0,
        "layers": [],
        "kernels": kernels,
        "traffic": rows,
    }


def inspect_file(name: str, variant: str | None = None) -> dict[str, Any]:
    """The document of a file; `shipped` is the checkpoint that ships.

    Raises:
        InputError: There is no such file, or it is of no known kind.
    """
    path = shipped_checkpoint() if name == "shipped" else Path(name).expanduser()
    if not path.is_file():
        raise InputError(
            f"there is no file {name!r}",
            got="a folder" if path.is_dir() else "no such file",
            expected="a checkpoint, an ONNX file, an engine or a calibration table",
        )
    passport = read_passport(path)
    if path.name.endswith(CHECKPOINT_SUFFIXES):
        kind, details = "checkpoint", _checkpoint(path, variant)
    elif path.suffix == ".onnx":
        kind, details = "onnx", _onnx(path)
    elif path.suffix == ".json":
        kind, details = "calibration", _calibration(path)
    elif path.suffix in (".engine", ".plan"):
        kind, details = "engine", _engine(path, passport)
    else:
        raise InputError(
            f"{path} is of no known kind",
            got=path.suffix or "no suffix",
            expected=f"{', '.join(CHECKPOINT_SUFFIXES)}, .onnx, .engine, .plan or .json",
        )
    digest = sha256_of(path)
    return {
        "schema": INSPECT_SCHEMA,
        "kind": kind,
        "path": str(path),
        "sha256": digest,
        "size_bytes": path.stat().st_size,
        "sms": [],
        "passport": passport.to_json() if passport else None,
        "passport_matches": passport.sha256 == digest if passport else None,
        "weight_bytes_by_type": {},
        "reformats": 0,
        "layers": [],
    } | details


def _checkpoint(path: Path, variant: str | None) -> dict[str, Any]:
    from alexnet_deploy.weights import load_model

    network, info = load_model(str(path), variant=variant)
    document = inspect_variant(network.spec)
    state = network.state_dict()
    nonzero = {}
    for layer in document["layers"]:
        weight = state.get(f"{layer['name']}.weight")
        if weight is not None:
            nonzero[layer["name"]] = round(float(weight.count_nonzero()) / weight.numel(), 4)
    return {
        "model": info.to_json(),
        "layers": document["layers"],
        "density": nonzero,
        "weight_bytes_by_type": document["weight_bytes_by_type"],
    }


def _onnx(path: Path) -> dict[str, Any]:
    from alexnet_deploy.graph import info_of, layer_costs, read_graph

    model = read_graph(path)
    info = info_of(model)
    by_type: Counter[str] = Counter()
    for value in model.graph.initializers.values():
        if value.const_value is not None:
            by_type[value.const_value.dtype.name.lower()] += value.const_value.nbytes
    return {
        "model": info.to_json() if info else None,
        "opset": model.opset_imports.get(""),
        "layers": layer_costs(model),
        "weight_bytes_by_type": dict(by_type),
    }


def _engine(path: Path, passport: Passport | None) -> dict[str, Any]:
    """Off the file itself, without opening it; of a TensorRT engine, which has no readable text, what was read when it
    was built."""
    from alexnet_deploy.engines.plan import read_plan

    stated = passport.facts.get("plan", {}) if passport is not None else {}
    try:
        if passport is not None and passport.facts.get("backend") == "tensorrt":
            plan = stated
        else:
            names = [str(layer["name"]) for layer in stated.get("layers", [])]
            plan = read_plan(bounded_bytes(path, MAX_ENGINE_BYTES), names).to_json()
        layers = [{"output": [], "parameters": 0, "macs": 0, **layer} for layer in plan["layers"]]
        return {"layers": layers, **{name: plan[name] for name in _PLAN_KEYS}}
    except (AttributeError, KeyError, TypeError) as exc:
        raise ArtifactError(
            f"the passport of {path} does not describe an engine as build-engine does",
            got=repr(exc)[:200],
            expected="what was read off the engine when it was built",
            remedy="build the engine again, or move the passport away",
        ) from exc


_PLAN_KEYS = (
    "sms", "layers_by_precision", "weight_bytes_by_type", "reformats", "plugins", "plugin_sms",
)  # fmt: skip


def _calibration(path: Path) -> dict[str, Any]:
    from alexnet_deploy.precision.table import CalibrationTable

    try:
        table = CalibrationTable.read(path)
    except InputError as exc:
        raise InputError(
            f"{path} is not a calibration table",
            got=exc.got,
            expected="the JSON that `alexnet-deploy calibrate` writes; a passport is shown with its artifact",
        ) from exc
    values: dict[str, Any] = json.loads(json.dumps(table.to_json()))
    kept = ("method", "percentile", "images", "images_sha256", "graph_sha256", "preprocessing", "tensors")
    return {key: values[key] for key in kept}
