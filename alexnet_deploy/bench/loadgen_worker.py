"""A LoadGen test in a process of its own: LoadGen keeps its state in globals, and a runtime its threads."""

from __future__ import annotations

import multiprocessing
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from alexnet_deploy import errors
from alexnet_deploy.bench.loadgen import LoadResult, load_from_session
from alexnet_deploy.bench.loadgen_options import LoadOptions
from alexnet_deploy.bench.runner import EvaluationData
from alexnet_deploy.bench.worker import start_process
from alexnet_deploy.errors import AlexnetDeployError, InputError, SessionError
from alexnet_deploy.machine import keep_freed_memory
from alexnet_deploy.runtimes.open import open_session
from alexnet_deploy.runtimes.session import SessionSpec

# A worker that has answered and does not end by itself is killed.
_GOODBYE_SECONDS = 10.0


def require_batch(spec: SessionSpec, options: LoadOptions) -> None:
    """Engines are built for a largest batch.

    Raises:
        InputError: The scenario asks for larger ones.
    """
    if options.largest_batch > spec.max_batch:
        raise InputError(
            f"{spec.name} is made for smaller batches",
            got=f"batch {options.largest_batch} of {options.scenario.value}",
            expected=f"at most {spec.max_batch}",
        )


def load_in_process(spec: SessionSpec, data: EvaluationData, options: LoadOptions, folder: Path) -> LoadResult:
    """Runs one scenario in a fresh process, for as long as it takes.

    Args:
        spec: What to run.
        data: The images; the worker opens them itself.
        options: The scenario.
        folder: Where LoadGen writes its logs.

    Raises:
        AlexnetDeployError: Of the class that it has in the worker.
        SessionError: The worker died.
    """
    require_batch(spec, options)
    context = multiprocessing.get_context("spawn")
    pipe, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, spec, data, options, folder), daemon=True)
    try:
        start_process(process)
        theirs.close()
        kind, value = _answer(pipe, process, spec)
        if kind == "done":
            process.join(_GOODBYE_SECONDS)
            result: LoadResult = value
            return result
        raise _error_from_fields(*value)
    finally:
        # After an error, or Ctrl-C, LoadGen goes on with its schedule.
        if process.is_alive():
            process.kill()
        if process.pid is not None:
            process.join()
        pipe.close()


def _answer(pipe: Connection, process: Any, spec: SessionSpec) -> tuple[str, Any]:
    wait([pipe, process.sentinel])
    try:
        answer: tuple[str, Any] = pipe.recv()
    except (EOFError, OSError) as exc:
        process.join(_GOODBYE_SECONDS)
        raise SessionError(f"the process of {spec.name} ended", got=f"exit code {process.exitcode}") from exc
    return answer


def _error_from_fields(name: str, problem: str, got: str | None, expected: str | None, remedy: str | None) -> Exception:
    kind: type[AlexnetDeployError] = getattr(errors, name, SessionError)
    return kind(problem, got=got, expected=expected, remedy=remedy)


def _fields(error: BaseException) -> tuple[str, str, str | None, str | None, str | None]:
    if not isinstance(error, AlexnetDeployError):
        # A runtime's own error must reach the row, whatever its class.
        return "SessionError", f"{type(error).__name__}: {error}", None, None, None
    got, expected = (None if part is None else str(part) for part in (error.got, error.expected))
    return type(error).__name__, error.problem, got, expected, error.remedy


def _serve(pipe: Connection, spec: SessionSpec, data: EvaluationData, options: LoadOptions, folder: Path) -> None:
    """The worker: one answer, an error as soon as there is one."""
    import signal

    # Ctrl-C reaches the whole group; the parent decides when its workers end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # As the bench's own workers do.
    keep_freed_memory()

    def tell(error: BaseException) -> None:
        pipe.send(("failed", _fields(error)))

    try:
        images = data.open()
        with open_session(spec) as session:
            result = load_from_session(session, images, options, folder, on_failure=tell)
    except Exception as exc:
        tell(exc)
    else:
        pipe.send(("done", result))
