"""Opens hostile files in a process whose memory is limited, so that it fails, and not the machine.

Run as a program it reads a JSON list of [opener, path] from standard input and answers with a list of outcomes.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from alexnet_deploy.errors import AlexnetDeployError

REPOSITORY = Path(__file__).parents[2]
# Beside what the packages take that are loaded already; every hostile file asks for gigabytes.
BUDGET_BYTES = 900_000_000


@dataclass(frozen=True)
class Outcome:
    """How an attempt ended: the error's class and message, or `opened`, and the most memory in use meanwhile."""

    kind: str
    message: str
    grown_bytes: int


def checkpoint(path: Path) -> None:
    """As `--model` opens it."""
    from alexnet_deploy.weights import load_model

    load_model(str(path))


def graph(path: Path) -> None:
    """As `export` opens and normalises it."""
    from alexnet_deploy.graph import read_graph
    from alexnet_deploy.normalise import normalise

    normalise(read_graph(path))


def exported(path: Path) -> None:
    """The whole of `export`, up to the parity on real images."""
    from alexnet_deploy.pipeline.fp32 import fp32_from_source
    from alexnet_deploy.progress import SILENT

    fp32_from_source(path, variant=None, preprocessing="imagenet", opset=18, voice=SILENT)


def image(path: Path) -> None:
    """One image."""
    from alexnet_deploy.data.sources import read_image

    read_image(path)


def idx(path: Path) -> None:
    """An idx file."""
    from alexnet_deploy.data.sources import read_idx

    read_idx(path)


def table(path: Path) -> None:
    """A calibration table."""
    from alexnet_deploy.precision.table import CalibrationTable

    CalibrationTable.read(path)


def bench(path: Path) -> None:
    """A document of `bench`."""
    from alexnet_deploy.bench.documents import read_bench

    read_bench(path)


def inspected(path: Path) -> None:
    """Whatever it is."""
    from alexnet_deploy.inspection import inspect_file

    inspect_file(str(path))


OPENERS: dict[str, Callable[[Path], None]] = {
    each.__name__: each for each in (checkpoint, graph, exported, image, idx, table, bench, inspected)
}


def attacked(cases: Sequence[tuple[str, Path]], budget: int = BUDGET_BYTES) -> list[Outcome]:
    """Opens each file in one confined process; a crash of it is an outcome too."""
    request = json.dumps([[opener, str(path)] for opener, path in cases])
    command = [sys.executable, "-m", "tests.security.confined", str(budget)]
    ended = subprocess.run(command, input=request, capture_output=True, text=True, cwd=REPOSITORY, timeout=500)
    outcomes = [Outcome(*json.loads(line)) for line in ended.stdout.splitlines() if line.startswith("[")]
    for _, path in cases[len(outcomes) :]:
        outcomes.append(Outcome("ended", f"{path.name}: exit code {ended.returncode}: {ended.stderr[-500:]}", 0))
    return outcomes


def _memory(name: str) -> int:
    status = Path("/proc/self/status").read_text()
    return 1024 * int(next(line.split()[1] for line in status.splitlines() if line.startswith(f"{name}:")))


def _loaded() -> None:
    """Everything that the openers import, and the threads that it starts."""
    import onnx_ir.passes.common
    import onnxruntime
    import PIL.WebPImagePlugin
    import torch
    import zstandard

    from alexnet_deploy.data.shipped import Split, shipped_images
    from alexnet_deploy.weights import load_model

    del onnx_ir, onnxruntime, PIL, zstandard
    shipped_images(Split.EVALUATION)
    network, _ = load_model("shipped")
    with torch.inference_mode():
        network(torch.zeros(1, 3, network.spec.image_size, network.spec.image_size))


def _attempt(opener: str, path: str) -> Outcome:
    before = _memory("VmRSS")
    # Lets the kernel count the largest use anew.
    Path("/proc/self/clear_refs").write_text("5")
    try:
        OPENERS[opener](Path(path))
        kind, message = "opened", ""
    except AlexnetDeployError as exc:
        kind, message = type(exc).__name__, str(exc)
    except BaseException as exc:
        kind, message = f"traceback of {type(exc).__name__}", str(exc)
    return Outcome(kind, message, _memory("VmHWM") - before)


def main() -> None:
    """Opens what standard input names."""
    _loaded()
    limit = _memory("VmSize") + int(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for opener, path in json.load(sys.stdin):
        found = _attempt(opener, path)
        print(json.dumps([found.kind, found.message, found.grown_bytes]), flush=True)


if __name__ == "__main__":
    main()
