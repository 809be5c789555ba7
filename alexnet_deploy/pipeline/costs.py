"""What each layer needs in each session: multiply-adds from the FP32 graph, weights as the session has them."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

from alexnet_deploy.bench.peaks import PEAKS_VERSION, Peaks, measured_peaks
from alexnet_deploy.bench.profile import layers_of_nodes
from alexnet_deploy.bench.roofline import LayerCost
from alexnet_deploy.machine import cpu_flags, environment
from alexnet_deploy.pipeline.stages import Deployment
from alexnet_deploy.pipeline.workspace import Made
from alexnet_deploy.runtimes.open import ON_CPU
from alexnet_deploy.runtimes.session import BF16_HINT, SessionSpec
from alexnet_deploy.specs import Precision

# Of an activation at the border of the network, FP32 wherever it runs.
_BORDER_BYTES = 4
_WEIGHT_BYTES = {Precision.FP32: 4, Precision.BF16: 2}


class Costs:
    """Layers of a deployment's network."""

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        self._by_file: dict[Path, dict[str, dict[str, Any]]] = {}

    @cached_property
    def nodes(self) -> list[dict[str, Any]]:
        """Every node of the FP32 graph."""
        return self._nodes(self._deployment.fp32_graph().path)

    @cached_property
    def layers(self) -> list[dict[str, Any]]:
        """The nodes that count as layers, as the report shows them."""
        kept = ("name", "op", "output", "parameters", "macs", "weight_bytes")
        return [{key: node[key] for key in kept} for node in self.nodes if node["op"] != "other"]

    @cached_property
    def layer_of(self) -> dict[str, str]:
        """The layer of every node and of every result."""
        return layers_of_nodes(self.nodes)

    def of(self, spec: SessionSpec) -> tuple[LayerCost, ...]:
        """What every layer with weights needs in a session; nothing of a device's, whose peaks are not measured."""
        if spec.runtime not in ON_CPU:
            return ()
        weighted = [layer for layer in self.layers if layer["macs"]]
        side = self._deployment.info.preprocessing.image_size
        found = []
        for index, layer in enumerate(weighted):
            elements = 3 * side * side if index == 0 else 0
            if index == len(weighted) - 1:
                elements += layer["output"][-1] if layer["output"] else 0
            weight_bytes, precision = self._held(spec, layer)
            found.append(
                LayerCost(
                    name=layer["name"],
                    macs=layer["macs"],
                    run_bytes=weight_bytes,
                    image_bytes=_BORDER_BYTES * elements,
                    precision=precision,
                )
            )
        return tuple(found)

    def _held(self, spec: SessionSpec, layer: dict[str, Any]) -> tuple[int, str]:
        """Bytes of the layer's weights in a session, and the precision it multiplies in."""
        if spec.precision not in _WEIGHT_BYTES:
            known = self._quantized(spec).get(layer["name"])
            if known is not None:
                floats = BF16_HINT if spec.hint == BF16_HINT else known["precision"]
                return known["weight_bytes"], known["precision"] if known["precision"] == "int8" else floats
        width = _WEIGHT_BYTES.get(spec.precision, 4)
        return width * layer["parameters"], spec.precision.value

    def _quantized(self, spec: SessionSpec) -> dict[str, dict[str, Any]]:
        """The layers of the graph that a session runs, by name."""
        if spec.path not in self._by_file:
            self._by_file[spec.path] = {node["name"]: node for node in self._nodes(spec.path)}
        return self._by_file[spec.path]

    @staticmethod
    def _nodes(path: Path) -> list[dict[str, Any]]:
        from alexnet_deploy.graph import layer_costs, read_graph

        return layer_costs(read_graph(path))


def peaks_in_workspace(deployment: Deployment, threads: int) -> Peaks:
    """What this CPU attains, measured once and kept in the work directory as `peaks.cpu.<threads>-threads.json`."""
    import json

    machine = environment()
    request = {
        "version": PEAKS_VERSION,
        "threads": threads,
        "cpu": [machine["cpu"], machine["cpu_family"], machine["cpus"], sorted(cpu_flags())],
        "packages": {
            name: machine["packages"].get(name) for name in ("torch", "onnxruntime-gpu", "onnxruntime", "openvino")
        },
    }
    workspace = deployment.workspace

    def measure() -> Made:
        workspace.voice.say("measuring what this machine attains: memory bandwidth and arithmetic")
        peaks = measured_peaks(threads)
        return Made(data=(json.dumps(peaks.to_json(), indent=1) + "\n").encode(), tools=machine["packages"])

    path = workspace.folder / f"peaks.cpu.{threads}-threads.json"
    artifact = workspace.make(path, "peaks", request, [], measure)
    return Peaks.from_json(json.loads(artifact.path.read_text()))
