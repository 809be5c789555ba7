"""MLPerf's load generator (LoadGen) over a session: its queries, its clock, its verdict.

A query's time is the session's from a preprocessed image in memory to the class, copies to and from a device included.
Images are drawn from a set that is preprocessed once and stays in memory. LoadGen keeps its state in globals: one test
at a time in a process, and each that is reported in a process of its own (`loadgen_worker`).
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alexnet_deploy.bench.loadgen_log import (
    ACCURACY,
    DETAIL,
    SUMMARY,
    TRACE,
    Verdict,
    answers_from_log,
    verdict_from_logs,
)
from alexnet_deploy.bench.loadgen_options import (
    SAMPLES_PER_QUERY,
    LoadOptions,
    Rules,
    Scenario,
    rules_from_mlperf,
)
from alexnet_deploy.bench.loadgen_pace import Pace, pace_from_session, rate_from_pace
from alexnet_deploy.bench.loadgen_system import Failure, Library, Server, System
from alexnet_deploy.bench.runner import Images
from alexnet_deploy.errors import MissingDependencyError, SessionError
from alexnet_deploy.files import require_writable
from alexnet_deploy.optional import require
from alexnet_deploy.runtimes.session import Session

# Whose rules hold: AlexNet is none of MLPerf's benchmarks, ResNet-50 is the one of the same task.
MLPERF_MODEL = "resnet50"
# As many answers, about, LoadGen keeps of a test, so that their accuracy can be told (MLPerf's compliance TEST01 does
# the same).
_KEPT_ANSWERS = 512
_RUNNING = threading.Lock()


@dataclass(frozen=True, kw_only=True)
class LoadResult:
    """One test.

    Attributes:
        verdict: What LoadGen says.
        rules: In force, beside MLPerf's.
        rate: Queries per second that LoadGen was told to expect or, of a server, to send; images/s of offline.
        rate_is_derived: From `pace`, not from the user.
        pace: What the session was measured to take before.
        resident_images, resident_bytes: The preprocessed images in memory.
        answers: `(image, class)` of some answers under load, by LoadGen's choice.
    """

    verdict: Verdict
    rules: Rules
    rate: float
    rate_is_derived: bool
    pace: Pace
    resident_images: int
    resident_bytes: int
    answers: tuple[tuple[int, int], ...]


def loadgen_module() -> Any:
    """Imports LoadGen.

    Raises:
        MissingDependencyError: It is not installed.
    """
    try:
        return require("mlperf_loadgen", "an MLPerf scenario")
    except MissingDependencyError as exc:
        raise MissingDependencyError(
            exc.problem,
            got=exc.got or f"Python {sys.version.split()[0]}",
            expected="Python 3.11, the only one that the package has wheels for",
            remedy=exc.remedy,
        ) from exc


def rules_from_options(options: LoadOptions, images: int) -> Rules:
    """The rules of a test over so many images, and MLPerf's own as the installed LoadGen has them.

    Raises:
        MissingDependencyError: LoadGen is not installed.
    """
    return rules_from_mlperf(_mlperf_settings(loadgen_module(), options), options, images)


def load_from_session(
    session: Session,
    images: Images,
    options: LoadOptions,
    folder: Path,
    *,
    on_failure: Callable[[BaseException], None] | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> LoadResult:
    """Runs one scenario and returns what LoadGen says of it.

    An error of the session does not end LoadGen, which would take the process with it: it is kept, the queries that
    are left are answered with class 0, and it is raised at the end.

    Args:
        session: What answers.
        images: Preprocessed images to draw from.
        options: The scenario.
        folder: Where LoadGen writes its logs; older ones are removed first.
        on_failure: Called with the first error as soon as it is there; a server's schedule goes on for minutes.
        clock: Seconds, of the measurement before the test.

    Raises:
        MissingDependencyError: LoadGen is not installed.
        InputError: The images do not fit into memory.
        ArtifactError: The folder cannot be written.
        SessionError: The session failed, or LoadGen left no readable log.
    """
    loadgen = loadgen_module()
    with _one_at_a_time():
        _clear(folder)
        pace = pace_from_session(session, images, options, clock=clock)
        settings = _mlperf_settings(loadgen, options)
        rules = rules_from_mlperf(settings, options, len(images))
        rate = options.target_qps or rate_from_pace(pace, options, rules.target_latency_ms)
        _apply(settings, rules, rate)
        failure = Failure(on_failure)
        library = Library(images, failure, session.image_shape, rules.performance_samples)
        kind = Server if options.scenario is Scenario.SERVER else System
        _run(loadgen, kind(loadgen, session, library, failure, options.largest_batch), library, settings, folder)
        failure.raise_if_any()
        return LoadResult(
            verdict=verdict_from_logs(folder, options.scenario),
            rules=rules,
            rate=rate,
            rate_is_derived=options.target_qps is None,
            pace=pace,
            resident_images=library.count,
            resident_bytes=library.size_bytes,
            answers=answers_from_log(folder),
        )


@contextlib.contextmanager
def _one_at_a_time() -> Iterator[None]:
    if not _RUNNING.acquire(blocking=False):
        raise SessionError("LoadGen runs one test at a time in a process", remedy="start it in another process")
    try:
        yield
    finally:
        _RUNNING.release()


def _clear(folder: Path) -> None:
    """LoadGen returns without a word where it cannot write, and an older verdict would be read in its place."""
    require_writable(folder)
    for name in (SUMMARY, DETAIL, ACCURACY, TRACE):
        (folder / name).unlink(missing_ok=True)


def _mlperf_settings(loadgen: Any, options: LoadOptions) -> Any:
    """MLPerf's rules and seeds for the scenario, as LoadGen has them inside."""
    settings = loadgen.TestSettings()
    settings.scenario = getattr(loadgen.TestScenario, options.scenario.in_loadgen)
    settings.mode = loadgen.TestMode.PerformanceOnly
    built_in = 0
    settings.FromConfig("", MLPERF_MODEL, options.scenario.in_loadgen, built_in)
    return settings


def _apply(settings: Any, rules: Rules, rate: float) -> None:
    settings.min_duration_ms = round(rules.min_duration_s * 1e3)
    settings.min_query_count = rules.min_queries
    settings.performance_sample_count_override = rules.performance_samples
    settings.accuracy_log_sampling_target = _KEPT_ANSWERS
    settings.multi_stream_samples_per_query = SAMPLES_PER_QUERY
    settings.single_stream_expected_latency_ns = settings.multi_stream_expected_latency_ns = 1e9 / rate
    settings.offline_expected_qps = settings.server_target_qps = rate
    if rules.target_latency_ms is not None:
        settings.server_target_latency_ns = round(rules.target_latency_ms * 1e6)


def _run(loadgen: Any, system: System, library: Library, settings: Any, folder: Path) -> None:
    log_settings, output = loadgen.LogSettings(), loadgen.LogOutputSettings()
    output.outdir, log_settings.log_output, log_settings.enable_trace = str(folder), output, False
    under_test = loadgen.ConstructSUT(system.issue, system.flush)
    samples = loadgen.ConstructQSL(library.total, library.count, library.load, library.unload)
    # By default LoadGen reads an audit.config of the current folder over its settings.
    no_audit = ""
    try:
        with system.failure.keeping_interrupts(), system:
            loadgen.StartTestWithLogSettings(under_test, samples, settings, log_settings, no_audit)
    finally:
        loadgen.DestroyQSL(samples)
        loadgen.DestroySUT(under_test)
