"""Runs commands in forks of one process that has everything imported, and ends them where it is told to.

usage: python -m tests.faults.driver FOLDER    (a job a line on standard input, a result a line on standard output)

A job is `{"arguments": […], "folder": "…", "kill_at": n, "user": id, "file_bytes": n}`, the last three optional; its
result `{"code": n, "points": n, "err": "…"}`, where a code below zero is the signal that ended it, and `points` how
often it was about to change something below the job's folder. A fresh process a case would spend seconds on imports.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import json
import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any

# What commands import on the way; nothing here may start a thread, which a fork would lose.
_IMPORTS = (
    "torch", "onnx", "onnx_ir", "onnxruntime", "safetensors.torch", "matplotlib.figure", "rich.console",
    "alexnet_deploy.cli.export", "alexnet_deploy.cli.calibrate", "alexnet_deploy.cli.train",
    "alexnet_deploy.cli.inspect", "alexnet_deploy.pipeline.stages", "alexnet_deploy.training.run",
    "alexnet_deploy.precision.calibrate", "alexnet_deploy.precision.qdq", "alexnet_deploy.lrn.recovery",
)  # fmt: skip
# What torch's exporter imports when it is first used, which takes longer than the export; another version may have
# moved them.
_OF_THE_EXPORTER = (
    "alexnet_deploy.cli.main", "alexnet_deploy.precision.safety", "torch._dynamo", "torch._functorch.aot_autograd",
    "torch._functorch.partitioners", "torch._inductor.config", "torch._refs", "torch._export.non_strict_utils",
    "torch.export._trace", "torch.onnx._internal.exporter._compat", "torch.onnx._internal.exporter._torchlib.ops",
    "onnxscript.function_libs.torch_lib.ops", "onnxscript.rewriter.onnx_fusions", "triton",
)  # fmt: skip
_CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "os.truncate"}
# Stands for a command that makes two artifacts and nothing else.
WORKSPACE = "workspace"
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


@dataclasses.dataclass
class Points:
    """Counts the points at which a command changes something below a folder, and kills the process at one of them."""

    folder: str
    kill_at: int | None
    count: int = 0

    def reached(self) -> None:
        """One more; the last one where that is the job."""
        self.count += 1
        if self.count == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def install(self) -> None:
        """Watches Python's own calls, syncing to disk, and the middle of writing."""
        sys.addaudithook(self._hear)
        fsync, write = os.fsync, Path.write_bytes

        def synced(handle: int) -> None:
            self.reached()
            fsync(handle)

        def written(path: Path, data: bytes) -> int:
            write(path, data[: len(data) // 2])
            self.reached()
            return write(path, data)

        os.fsync = synced  # type: ignore[assignment]
        Path.write_bytes = written  # type: ignore[method-assign, assignment]

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            changes = isinstance(flags, int) and flags & _WRITING
        else:
            path, changes = (arguments[0] if arguments else None), event in _CHANGES
        if changes and isinstance(path, str | bytes | os.PathLike) and os.fsdecode(path).startswith(self.folder):
            self.reached()


def run(job: dict[str, Any], folder: Path) -> dict[str, Any]:
    """One job in a fork."""
    words, points = folder / "words", folder / "points"
    for path in (words, points):
        path.write_bytes(b"")
        path.chmod(0o666)
    child = os.fork()
    if child == 0:
        code = 70
        try:
            code = _in_child(job, words, points)
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    return {"code": code, "points": int(points.read_text() or 0), "err": words.read_text()}


def _in_child(job: dict[str, Any], words: Path, points: Path) -> int:
    from alexnet_deploy.cli.main import main

    sink = os.open(words, os.O_WRONLY)
    os.dup2(sink, 1)
    os.dup2(sink, 2)
    counts = points.open("w")
    counter = Points(job["folder"], job.get("kill_at"))
    if job.get("user"):
        os.setgid(job["user"])
        os.setuid(job["user"])
    if job.get("file_bytes"):
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (job["file_bytes"], job["file_bytes"]))
    counter.install()
    code = 1
    try:
        if job["arguments"] == [WORKSPACE]:
            _make(Path(job["folder"]))
            return code - 1
        main(job["arguments"])
    except SystemExit as exc:
        code = exc.code if isinstance(exc.code, int) else 1
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        counts.write(str(counter.count))
        counts.flush()
    return code


def _make(folder: Path) -> None:
    """An artifact, and another that is made of it: what every command does, in milliseconds."""
    from alexnet_deploy.pipeline.workspace import Made, Workspace

    workspace = Workspace(folder=folder)
    graph = workspace.make(folder / "a.onnx", "onnx", {"opset": 20}, [], lambda: Made(data=b"graph" * 1000))
    workspace.make(folder / "b.onnx", "engine", {}, [graph.path], lambda: Made(data=b"engine" * 1000))


def serve() -> None:
    """Answers until standard input ends."""
    for name in _IMPORTS:
        importlib.import_module(name)
    for name in _OF_THE_EXPORTER:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    folder = Path(sys.argv[1])
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(run(json.loads(line), folder)), flush=True)


if __name__ == "__main__":
    serve()
