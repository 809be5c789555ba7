"""All four scenarios with the real load generator: what it asks is answered, and nothing that goes wrong ends it."""

from __future__ import annotations

import itertools
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alexnet_deploy.bench import loadgen, loadgen_system
from alexnet_deploy.bench.loadgen import LoadResult, load_from_session, loadgen_module, rules_from_options
from alexnet_deploy.bench.loadgen_log import DETAIL, SUMMARY
from alexnet_deploy.bench.loadgen_options import LoadOptions, Scenario
from alexnet_deploy.bench.loadgen_pace import pace_from_session
from alexnet_deploy.bench.loadgen_system import Failure, Library, Server
from alexnet_deploy.errors import ArtifactError, InputError, MissingDependencyError, SessionError
from alexnet_deploy.optional import is_installed
from alexnet_deploy.runtimes.fake import FakeSession
from tests.test_optional import hide

needs_loadgen = pytest.mark.skipif(
    not is_installed("mlperf_loadgen"), reason="mlcommons-loadgen is not installed; it has wheels for Python 3.11 alone"
)
SHAPE = (3, 8, 8)
# Classes 9 and 0 in turns.
IMAGES = np.where(np.arange(40) % 2 == 0, 1.0, -1.0).astype(np.float32).reshape(-1, 1, 1, 1) * np.ones(
    SHAPE, np.float32
)
SERVER = {"target_qps": 2000.0, "target_latency_ms": 2000.0}


def options_of(scenario: Scenario, **changes: Any) -> LoadOptions:
    own = SERVER if scenario is Scenario.SERVER else {}
    return LoadOptions(**{"scenario": scenario, "min_duration_s": 0.2, "max_batch": 4, **own, **changes})


def slow() -> None:
    time.sleep(0.0005)


def ticking() -> Callable[[], float]:
    """A clock by which a run takes a millisecond, so that how many are measured does not depend on the machine."""
    calls = itertools.count()
    return lambda: next(calls) / 1e3


def load(session: FakeSession, options: LoadOptions, folder: Path, **more: Any) -> LoadResult:
    return load_from_session(session, IMAGES, options, folder, **more)


@needs_loadgen
@pytest.mark.parametrize("scenario", Scenario)
def test_a_scenario_ends_with_loadgens_verdict_and_true_answers(scenario: Scenario, tmp_path: Path) -> None:
    batches = []

    class Watched(FakeSession):
        def _run(self, images: Any) -> Any:
            batches.append(len(images))
            return super()._run(images)

    result = load(Watched(SHAPE, tick=slow), options_of(scenario), tmp_path / "logs")
    verdict = result.verdict
    assert (tmp_path / "logs" / SUMMARY).is_file() and (tmp_path / "logs" / DETAIL).is_file()
    assert verdict.queries >= 1 and verdict.samples >= verdict.queries
    assert verdict.metric.value > 0 and verdict.duration_s > 0
    assert result.answers and all(answer == (9 if image % 2 == 0 else 0) for image, answer in result.answers)
    assert max(batches) == {Scenario.SINGLE_STREAM: 1, Scenario.MULTI_STREAM: 8}.get(scenario, 4)
    assert (result.resident_images, result.resident_bytes) == (40, 40 * 3 * 8 * 8 * 4)
    assert set(verdict.seeds.values()) != {0} and result.rate_is_derived == (scenario is not Scenario.SERVER)


@needs_loadgen
def test_a_server_that_cannot_keep_its_latency_is_invalid(tmp_path: Path) -> None:
    options = options_of(Scenario.SERVER, target_latency_ms=1e-3)
    verdict = load(FakeSession(SHAPE), options, tmp_path).verdict
    assert not verdict.valid and "Reduce target QPS to improve latency." in verdict.invalid_because


@needs_loadgen
@pytest.mark.parametrize("scenario", Scenario)
def test_a_session_that_fails_under_load_is_an_error_and_loadgen_ends(scenario: Scenario, tmp_path: Path) -> None:
    before = FakeSession(SHAPE)
    pace_from_session(before, IMAGES, options_of(scenario), clock=ticking())
    session = FakeSession(SHAPE, tick=slow, fails_at=before.runs + 20)
    heard: list[BaseException] = []
    with pytest.raises(SessionError, match="as it was told to") as caught:
        load(session, options_of(scenario), tmp_path, on_failure=heard.append, clock=ticking())
    assert heard == [caught.value]
    # LoadGen ended by itself, and another test can start.
    assert "Result is" in (tmp_path / SUMMARY).read_text()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("loadgen")]
    assert load(FakeSession(SHAPE, tick=slow), options_of(scenario), tmp_path).verdict.queries >= 1


@needs_loadgen
@pytest.mark.parametrize("scenario", [Scenario.SINGLE_STREAM, Scenario.SERVER])
def test_an_error_of_any_class_becomes_one_of_ours(scenario: Scenario, tmp_path: Path) -> None:
    before = FakeSession(SHAPE)
    pace_from_session(before, IMAGES, options_of(scenario), clock=ticking())

    class Odd(FakeSession):
        def run(self, images: Any) -> Any:
            if self.runs > before.runs + 20:
                raise ZeroDivisionError("odd")
            return super().run(images)

    with pytest.raises(SessionError, match="under load") as caught:
        load(Odd(SHAPE, tick=slow), options_of(scenario), tmp_path, clock=ticking())
    assert caught.value.got == "ZeroDivisionError: odd"


@needs_loadgen
def test_images_that_cannot_be_made_are_an_error_and_loadgen_ends(tmp_path: Path) -> None:
    class Broken:
        def __len__(self) -> int:
            return len(IMAGES)

        def __getitem__(self, part: slice) -> Any:
            if part.start == 7:
                raise InputError("image 7 is damaged")
            return IMAGES[part]

    with pytest.raises(InputError, match="image 7"):
        load_from_session(FakeSession(SHAPE), Broken(), options_of(Scenario.OFFLINE), tmp_path)


@needs_loadgen
def test_ctrl_c_ends_the_test_and_is_raised_after_it(tmp_path: Path) -> None:
    calls = iter(range(10**9))
    session = FakeSession(SHAPE, tick=lambda: os.kill(os.getpid(), signal.SIGINT) if next(calls) == 400 else slow())
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        load(session, options_of(Scenario.SINGLE_STREAM), tmp_path, clock=ticking())
    assert signal.getsignal(signal.SIGINT) is before


@needs_loadgen
def test_an_audit_config_that_lies_about_changes_nothing(tmp_path: Path) -> None:
    Path("audit.config").write_text("*.*.min_query_count = 7\n*.*.qsl_rng_seed = 1\n")
    verdict = load(FakeSession(SHAPE, tick=slow), options_of(Scenario.SINGLE_STREAM), tmp_path / "logs").verdict
    assert verdict.seeds["qsl_rng_seed"] != 1


@needs_loadgen
def test_an_old_verdict_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load(FakeSession(SHAPE, tick=slow), options_of(Scenario.SINGLE_STREAM), tmp_path)
    monkeypatch.setattr(loadgen, "_run", lambda *_: None)
    with pytest.raises(SessionError, match=DETAIL):
        load(FakeSession(SHAPE), options_of(Scenario.SINGLE_STREAM), tmp_path)


@needs_loadgen
def test_a_folder_that_cannot_be_written_is_said_before_anything_runs(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    session = FakeSession(SHAPE)
    with pytest.raises(ArtifactError):
        load(session, options_of(Scenario.OFFLINE), tmp_path / "file" / "logs")
    assert session.runs == 0


@needs_loadgen
def test_one_test_at_a_time(tmp_path: Path) -> None:
    with loadgen._RUNNING, pytest.raises(SessionError, match="one test at a time"):
        load(FakeSession(SHAPE), options_of(Scenario.OFFLINE), tmp_path)


@needs_loadgen
def test_the_rules_beside_ours_are_those_inside_loadgen() -> None:
    found = {scenario: rules_from_options(LoadOptions(scenario=scenario), 100_000) for scenario in Scenario}
    assert {rules.mlperf_min_duration_s for rules in found.values()} == {600}
    assert {rules.mlperf_performance_samples for rules in found.values()} == {1024}
    assert [rules.mlperf_min_queries for rules in found.values()] == [100, 662, 24_576, 100]
    assert found[Scenario.SERVER].mlperf_target_latency_ms == 15


def test_without_the_package_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    hide(monkeypatch, "mlperf_loadgen")
    session = FakeSession(SHAPE)
    for ask in (loadgen_module, lambda: load(session, options_of(Scenario.SERVER), tmp_path)):
        with pytest.raises(MissingDependencyError, match="mlcommons-loadgen") as caught:
            ask()
        assert caught.value.remedy == "pip install 'alexnet-deploy[loadgen]'"
        assert "Python 3.11" in str(caught.value.expected)
    assert session.runs == 0


class Completions:
    """LoadGen's part that takes answers."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []

    QuerySampleResponse = staticmethod(lambda query, _address, _size: query)

    def QuerySamplesComplete(self, responses: list[int]) -> None:
        self.batches.append(responses)


def library_of(failure: Failure, count: int = 40) -> Library:
    library = Library(IMAGES, failure, SHAPE, count)
    library.load(list(range(count)))
    return library


def test_queries_that_wait_are_answered_together_and_in_order() -> None:
    completions, failure = Completions(), Failure(None)
    server = Server(completions, FakeSession(SHAPE), library_of(failure), failure, 4)

    class Sample:
        def __init__(self, query: int) -> None:
            self.id, self.index = query, query % 40

    server.issue([Sample(query) for query in range(10)])
    with server:
        pass
    assert [len(batch) for batch in completions.batches] == [4, 4, 2]
    assert [query for batch in completions.batches for query in batch] == list(range(10))


def test_images_that_lie_together_are_not_copied() -> None:
    library = library_of(Failure(None))
    assert np.shares_memory(library.batch([3, 4, 5]), library.batch([4]))
    scattered = library.batch([5, 3, 3])
    np.testing.assert_array_equal(scattered, IMAGES[[5, 3, 3]])
    library.unload([])
    assert library._loaded.size == 0


def test_images_that_repeat_are_kept_once() -> None:
    library = Library(IMAGES, Failure(None), SHAPE, 3)
    library.load([8, 2, 5, 8, 2])
    assert len(library._loaded) == 3
    np.testing.assert_array_equal(library.batch([5, 8, 2]), IMAGES[[5, 8, 2]])


def test_more_images_than_memory_holds_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loadgen_system, "memory_bytes", lambda: 40_000)
    with pytest.raises(InputError, match="do not fit into memory"):
        Library(IMAGES, Failure(None), SHAPE, 40)
    assert Library(IMAGES, Failure(None), SHAPE, 20).size_bytes == 20 * 3 * 8 * 8 * 4


def test_only_the_first_error_is_kept() -> None:
    heard: list[BaseException] = []
    failure = Failure(heard.append)
    failure.raise_if_any()
    first = SessionError("first")
    failure.keep(first)
    failure.keep(SessionError("second"))
    with pytest.raises(SessionError, match="first"):
        failure.raise_if_any()
    assert heard == [first]


def test_interrupts_are_left_alone_off_the_main_thread() -> None:
    inside = []

    def look() -> None:
        with Failure(None).keeping_interrupts():
            inside.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert inside == [signal.getsignal(signal.SIGINT)]
