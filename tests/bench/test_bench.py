"""Rows hold exactly what the clock said, sessions are visited in turns, and one that fails takes no other with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from alexnet_deploy.bench.anchor import AnchorTimes
from alexnet_deploy.bench.bench import rows_from_candidates
from alexnet_deploy.bench.candidate import BenchOptions, Candidate
from alexnet_deploy.bench.evaluation import parts_of, reference_of
from alexnet_deploy.bench.peaks import Peaks
from alexnet_deploy.bench.roofline import LayerCost
from alexnet_deploy.bench.rows import session_entry
from alexnet_deploy.bench.runner import LocalRunner, Runner
from alexnet_deploy.bench.sampling import AGAIN, UNTIL_STABLE, Samples, WarmUp
from alexnet_deploy.errors import (
    DataError,
    InputError,
    MissingDependencyError,
    RuntimeUnavailableError,
    SessionError,
)
from alexnet_deploy.runtimes.fake import FakeSession
from alexnet_deploy.runtimes.session import Session, SessionSpec
from alexnet_deploy.specs import Precision, Scope

ROW_KEYS = {
    "key", "runtime", "precision", "batch", "threads", "hint", "lrn", "status", "reason", "scope", "latency_ms",
    "samples_ms", "anchor_ms", "warm_up", "evaluated", "in_flight", "cold_start_ms", "peak_memory_bytes",
    "throughput_ips", "images", "top1", "top5", "agreement", "cosine", "sqnr_db", "ece", "flips", "size_bytes",
    "roofline",
}  # fmt: skip
COUNT = 40
# Runs before the first turn of a batch where the times are stable, and before the later turns.
FIRST, LATER = UNTIL_STABLE.least, AGAIN.most


class Clock:
    """Stands still but for what a session takes."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def images() -> NDArray[np.float32]:
    """Bright and dark ones in turn: the fake session gives them the last and the first class."""
    levels = np.where(np.arange(COUNT) % 2 == 0, 1.0, -1.0)
    return np.broadcast_to(levels[:, None, None, None], (COUNT, 3, 8, 8)).astype(np.float32)


LABELS = np.where(np.arange(COUNT) % 2 == 0, 9, 0)


class Inverted(FakeSession):
    """Wrong on everything that the other gets right."""

    def _run(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        return -super()._run(images)


class NotANumber(FakeSession):
    """Gives NaN for one class."""

    def _run(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        outputs = super()._run(images)
        outputs[:, 3] = np.nan
        return outputs


@dataclass
class Bench:
    """Candidates by name, each with its session, over one clock; keeps the order of all measurements."""

    clock: Clock = field(default_factory=Clock)
    openers: dict[str, Callable[[], Session]] = field(default_factory=dict)
    candidates: list[Candidate] = field(default_factory=list)
    measured: list[tuple[str, int, int]] = field(default_factory=list)
    made: list[str] = field(default_factory=list)

    def add(
        self,
        runtime: str,
        opener: Callable[[], Session] | None = None,
        *,
        reason: str | None = None,
        precision: Precision = Precision.FP32,
    ) -> None:
        spec = SessionSpec(runtime=runtime, precision=precision, path=Path(), threads=1, lrn="native")
        if opener is not None:
            self.openers[runtime] = opener
        self.candidates.append(Candidate(spec=spec, reason=reason, size_bytes=123))

    def session(
        self,
        runtime: str,
        milliseconds: float,
        *,
        fails_at: int | None = None,
        kind: type[FakeSession] = FakeSession,
        precision: Precision = Precision.FP32,
    ) -> FakeSession:
        """Adds a session whose n-th run takes `milliseconds` and n microseconds."""
        made: list[FakeSession] = []

        def tick() -> None:
            self.clock.now += (milliseconds + made[0].runs / 1e3) / 1e3

        made.append(kind(tick=tick, fails_at=fails_at))
        self.add(runtime, lambda: made[0], precision=precision)
        return made[0]

    def runner(self, spec: SessionSpec) -> Runner:
        bench = self

        class Recording(LocalRunner):
            def measure(
                self,
                batch: int,
                runs: int,
                scope: Scope = Scope.COPIES,
                warm_up: WarmUp = UNTIL_STABLE,
                seconds: float = 0.0,
            ) -> Samples:
                bench.measured.append((spec.runtime, batch, runs))
                return super().measure(batch, runs, scope, warm_up, seconds)

        self.made.append(spec.runtime)
        return Recording(opener=self.openers[spec.runtime], images=images(), clock=self.clock)

    def rows(self, options: BenchOptions, labels: NDArray[np.int64] | None = LABELS) -> dict[str, dict[str, object]]:
        rows = rows_from_candidates(self.candidates, options, self.runner, labels)
        assert all(set(row) == ROW_KEYS for row in rows)
        return {str(row["key"]): row for row in rows}


OPTIONS = BenchOptions(batches=(1, 4), runs=6, rounds=3, turn_seconds=0, threads=2)


def test_samples_and_median_are_what_the_clock_said() -> None:
    bench = Bench()
    session = bench.session("torch", 1.0)
    rows = bench.rows(OPTIONS)
    # One run opens it and three evaluate forty images; then the first turn warms up until stable, the others once.
    run, expected = 4, []
    for turn in range(3):
        run += FIRST if turn == 0 else LATER
        expected += [1 + (run + k) / 1e3 for k in (1, 2)]
        run += 2
    samples = rows["torch/fp32/1"]["samples_ms"]
    assert samples == pytest.approx(expected, abs=1e-9)
    taken = run - 4
    assert rows["torch/fp32/4"]["samples_ms"] == pytest.approx([value + taken / 1e3 for value in expected], abs=1e-9)
    latency = rows["torch/fp32/1"]["latency_ms"]
    assert isinstance(latency, dict)
    # The row says it to the microsecond.
    assert latency["median"] == pytest.approx(np.median(expected), abs=5e-4)
    assert (latency["min"], latency["runs"]) == (pytest.approx(expected[0]), 6)
    assert rows["torch/fp32/1"]["cold_start_ms"] == 1.0
    assert rows["torch/fp32/4"]["throughput_ips"] == pytest.approx(4e3 / (np.median(expected) + taken / 1e3), abs=0.01)
    assert rows["torch/fp32/1"]["warm_up"] == {"runs": FIRST, "stable": True}
    assert session.runs == 4 + 2 * taken


def test_every_turn_visits_every_session() -> None:
    bench = Bench()
    for name in ("torch", "onnxruntime-cpu", "openvino"):
        bench.session(name, 1.0)
    bench.rows(OPTIONS)
    names = ["torch", "onnxruntime-cpu", "openvino"]
    assert bench.measured == [(name, batch, 2) for batch in (1, 4) for _ in range(3) for name in names]


def test_turns_of_a_quick_row_last_as_long_as_asked_and_are_all_alike() -> None:
    bench = Bench()
    bench.session("torch", 1.0)
    bench.session("openvino", 40.0)
    rows = bench.rows(BenchOptions(batches=(1,), runs=7, rounds=3, turn_seconds=0.05))
    # What a run takes is known from the warm-up: a little over a millisecond, so that fifty runs are enough.
    assert [runs for name, _, runs in bench.measured if name == "torch"] == [3, 50, 50]
    samples = rows["torch/fp32/1"]["samples_ms"]
    assert isinstance(samples, list) and len(samples) == 150
    assert [runs for name, _, runs in bench.measured if name == "openvino"] == [3, 2, 2]


def test_runs_that_do_not_divide_are_all_taken() -> None:
    bench = Bench()
    bench.session("torch", 1.0)
    rows = bench.rows(BenchOptions(batches=(1,), runs=7, rounds=3, turn_seconds=0))
    assert len(rows["torch/fp32/1"]["samples_ms"]) == 7  # type: ignore[arg-type]
    assert [runs for _, _, runs in bench.measured] == [3, 2, 2]


def test_a_row_says_what_was_measured_and_how() -> None:
    bench = Bench()
    bench.session("torch", 1.0)
    row = bench.rows(OPTIONS)["torch/fp32/4"]
    assert (row["runtime"], row["precision"], row["batch"], row["threads"]) == ("torch", "fp32", 4, 2)
    assert (row["lrn"], row["hint"], row["size_bytes"], row["roofline"]) == ("native", None, 123, None)
    assert (row["status"], row["reason"], row["scope"]) == ("ok", None, "compute+copies")
    assert isinstance(row["peak_memory_bytes"], int) and row["peak_memory_bytes"] > 10_000_000


def test_accuracy_is_against_labels_and_against_the_first_session() -> None:
    bench = Bench()
    bench.session("torch", 1.0)
    bench.session("openvino", 1.0, kind=Inverted)
    rows = bench.rows(OPTIONS)
    right, wrong = rows["torch/fp32/1"], rows["openvino/fp32/1"]
    assert (right["top1"], right["agreement"], right["sqnr_db"]) == (1.0, 1.0, None)
    assert (wrong["top1"], wrong["agreement"]) == (0.0, 0.0)
    assert wrong["sqnr_db"] == pytest.approx(-6.02, abs=0.01)
    assert wrong["flips"] == {"lost": COUNT, "won": 0, "p_value": 2 * 0.5**COUNT}


def test_without_labels_there_is_agreement_only() -> None:
    bench = Bench()
    bench.session("torch", 1.0)
    row = bench.rows(OPTIONS, labels=None)["torch/fp32/1"]
    assert (row["top1"], row["top5"], row["ece"], row["agreement"]) == (None, None, None, 1.0)


def assert_did_not_run(row: dict[str, object], status: str, *words: str) -> None:
    assert row["status"] == status
    for word in words:
        assert word in str(row["reason"])
    assert row["samples_ms"] == []
    for key in ("latency_ms", "cold_start_ms", "peak_memory_bytes", "throughput_ips", "top1", "agreement", "flips"):
        assert row[key] is None, key


# Run 0 opens, 1 to 3 evaluate, 4 to 15 measure batch 1, 16 to 27 batch 4.
@pytest.mark.parametrize("fails_at", [0, 2, 4, 12, 20, 27])
def test_a_session_that_fails_becomes_a_failed_row_and_the_others_stay(fails_at: int) -> None:
    bench = Bench()
    first = bench.session("torch", 1.0)
    failing = bench.session("onnxruntime-cpu", 1.0, fails_at=fails_at)
    last = bench.session("openvino", 2.0)
    rows = bench.rows(OPTIONS)
    for batch in (1, 4):
        assert_did_not_run(rows[f"onnxruntime-cpu/fp32/{batch}"], "failed", "as it was told to")
        for name in ("torch", "openvino"):
            row = rows[f"{name}/fp32/{batch}"]
            assert row["status"] == "ok" and len(row["samples_ms"]) == 6  # type: ignore[arg-type]
    assert failing.runs == fails_at
    assert first.closed and failing.closed and last.closed


def test_where_the_first_session_fails_the_next_is_the_reference() -> None:
    bench = Bench()
    bench.session("torch", 1.0, fails_at=0)
    bench.session("openvino", 1.0)
    rows = bench.rows(OPTIONS)
    assert_did_not_run(rows["torch/fp32/1"], "failed")
    assert rows["openvino/fp32/1"]["agreement"] == 1.0


def test_outputs_that_are_not_numbers_fail_the_session() -> None:
    bench = Bench()
    bench.session("torch", 1.0, kind=NotANumber)
    bench.session("openvino", 1.0)
    rows = bench.rows(OPTIONS)
    assert_did_not_run(rows["torch/fp32/1"], "failed", "finite")
    assert rows["openvino/fp32/1"]["status"] == "ok"


def test_a_candidate_with_a_reason_is_skipped_and_never_opened() -> None:
    bench = Bench()
    bench.session("torch", 1.0)
    bench.add("tensorrt", reason="built, not run: no CUDA device")
    rows = bench.rows(OPTIONS)
    assert bench.made == ["torch"]
    assert_did_not_run(rows["tensorrt/fp32/1"], "skipped", "built, not run: no CUDA device")
    assert rows["tensorrt/fp32/1"]["size_bytes"] == 123


@pytest.mark.parametrize(
    "error",
    [RuntimeUnavailableError("no CUDA device"), MissingDependencyError("openvino is missing", remedy="pip install it")],
)
def test_what_cannot_run_here_is_skipped_with_its_reason(error: Exception) -> None:
    def opener() -> Session:
        raise error

    bench = Bench()
    bench.session("torch", 1.0)
    bench.add("openvino", opener)
    rows = bench.rows(OPTIONS)
    assert_did_not_run(rows["openvino/fp32/1"], "skipped", *str(error).split("\n"))
    assert rows["torch/fp32/1"]["status"] == "ok"


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ZeroDivisionError(), DataError("an image is damaged")])
def test_runners_are_closed_whatever_ends_the_bench(error: BaseException) -> None:
    def opener() -> Session:
        raise error

    bench = Bench()
    session = bench.session("torch", 1.0)
    bench.add("openvino", opener)
    with pytest.raises(type(error)):
        bench.rows(OPTIONS)
    assert session.closed


def test_every_runner_is_closed_at_the_end() -> None:
    bench = Bench()
    sessions = [bench.session(name, 1.0) for name in ("torch", "openvino")]
    bench.rows(OPTIONS)
    assert all(session.closed for session in sessions)


def test_nothing_to_measure_gives_no_rows() -> None:
    assert Bench().rows(OPTIONS) == {}


def test_a_batch_larger_than_the_images_repeats_them() -> None:
    runner = LocalRunner(opener=FakeSession, images=images()[:3])
    runner.open()
    assert len(runner.measure(8, 2).milliseconds) == 2
    np.testing.assert_array_equal(runner._batch(8)[:, 0, 0, 0], [1, -1, 1, 1, -1, 1, 1, -1])


def test_evaluation_gives_one_row_for_every_image() -> None:
    runner = LocalRunner(opener=FakeSession, images=images()[:37])
    runner.open()
    np.testing.assert_array_equal(runner.evaluate().argmax(axis=1), LABELS[:37])


def test_a_runner_that_is_not_open_says_so() -> None:
    with pytest.raises(SessionError, match="not open"):
        LocalRunner(opener=FakeSession, images=images()).measure(1, 1)


@pytest.mark.parametrize(
    "options",
    [
        {"batches": ()},
        {"batches": (0,)},
        {"batches": (1, 5000)},
        {"runs": 0},
        {"runs": 3, "rounds": 5},
        {"rounds": 0},
        {"threads": 0},
        {"threads": 2000},
    ],
)
def test_a_bench_that_cannot_be_is_refused(options: dict[str, object]) -> None:
    with pytest.raises(InputError) as caught:
        BenchOptions(**options)  # type: ignore[arg-type]
    assert caught.value.got is not None and caught.value.expected


class Anchors:
    """Says which visit it is."""

    def __init__(self) -> None:
        self.opened, self.visits, self.closed = False, 0, False

    def open(self) -> None:
        self.opened = True

    def measure(self) -> AnchorTimes:
        self.visits += 1
        return AnchorTimes(compute=float(self.visits), memory=10.0 * self.visits)

    def close(self) -> None:
        self.closed = True


def test_the_anchor_is_measured_before_and_after_every_session_of_a_turn() -> None:
    bench, anchor = Bench(), Anchors()
    for name in ("torch", "openvino"):
        bench.session(name, 1.0)
    rows = rows_from_candidates(bench.candidates, OPTIONS, bench.runner, LABELS, anchor=anchor)
    assert anchor.opened and anchor.closed
    assert anchor.visits == 2 * 3 * 3
    by_key = {row["key"]: row for row in rows}
    # Visits 1 and 2 lie around the first turn of torch, 2 and 3 around that of OpenVINO.
    assert by_key["torch/fp32/1"]["anchor_ms"] == {"compute": [1.5, 4.5, 7.5], "memory": [15.0, 45.0, 75.0]}
    assert by_key["openvino/fp32/1"]["anchor_ms"]["compute"] == [2.5, 5.5, 8.5]


def test_the_anchor_is_closed_whatever_ends_the_bench() -> None:
    bench, anchor = Bench(), Anchors()
    bench.session("torch", 1.0)

    def broken() -> AnchorTimes:
        raise KeyboardInterrupt

    anchor.measure = broken  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        rows_from_candidates(bench.candidates, OPTIONS, bench.runner, LABELS, anchor=anchor)
    assert anchor.closed


def test_a_row_says_what_bounds_it_and_how_near_it_comes() -> None:
    bench = Bench()
    bench.session("torch", 2.0)
    cost = LayerCost(name="fc6", macs=1000, run_bytes=4000, image_bytes=0, precision="fp32")
    bench.candidates[0].costs = (cost,)
    peaks = Peaks(
        device="cpu", threads=1, read_bytes_per_second=4e6, macs_per_second={"fp32": 1e7}, kernels={"read": "sum"}
    )
    rows = rows_from_candidates(bench.candidates, OPTIONS, bench.runner, LABELS, peaks=peaks)
    roofline = rows[0]["roofline"]
    assert (roofline["bound"], roofline["limit_ms"], roofline["macs"], roofline["bytes"]) == ("memory", 1.0, 1000, 4000)
    assert roofline["fraction"] == pytest.approx(1 / rows[0]["latency_ms"]["median"], abs=1e-3)


def test_a_session_whose_outputs_are_those_of_another_is_not_evaluated_again() -> None:
    bench = Bench()
    bench.session("openvino", 1.0)
    twin = bench.session("openvino-twin", 1.0)
    bench.candidates[1].same_as = "openvino/fp32"
    rows = bench.rows(OPTIONS)
    assert twin.runs == 1 + 2 * (FIRST + LATER * 2 + 6)
    assert rows["openvino-twin/fp32/1"]["top1"] == rows["openvino/fp32/1"]["top1"] == 1.0


def test_where_the_other_failed_it_is_evaluated_itself() -> None:
    bench = Bench()
    bench.session("openvino", 1.0, fails_at=0)
    bench.session("openvino-twin", 1.0)
    bench.candidates[1].same_as = "openvino/fp32"
    assert bench.rows(OPTIONS)["openvino-twin/fp32/1"]["top1"] == 1.0


class Overlapping(FakeSession):
    """Two requests at once: the clock moves for one, both take as long."""

    in_flight = 2

    def run_overlapped(self, images: NDArray[np.float32], runs: int, clock: Callable[[], float]) -> list[float]:
        started = clock()
        for _ in range(runs // 2):
            self.run(images)
        return [clock() - started] * runs


def test_the_throughput_of_requests_in_flight_is_of_all_of_them() -> None:
    bench = Bench()
    bench.session("openvino", 1.0, kind=Overlapping)
    row = bench.rows(BenchOptions(batches=(4,), runs=5, rounds=2, turn_seconds=0))["openvino/fp32/4"]
    # Three runs in the longer turn, of two requests each, and as many in the shorter one.
    assert row["in_flight"] == 2 and len(row["samples_ms"]) == 12  # type: ignore[arg-type]
    # Two requests of four images in a little more than a millisecond.
    assert row["throughput_ips"] == pytest.approx(8000, rel=0.03)


def test_the_layers_are_put_where_the_profiler_puts_them_and_a_failure_costs_no_row() -> None:
    bench = Bench()
    for name in ("torch", "openvino", "onnxruntime-cpu"):
        bench.session(name, 1.0)

    def runner(spec: SessionSpec) -> Runner:
        made = bench.runner(spec)

        def layer_times(batches: tuple[int, ...], runs: int) -> object:
            if spec.runtime == "torch":
                raise SessionError("no profile today")
            return None if spec.runtime == "openvino" else [[f"{batch} {runs}"] for batch in batches]

        made.layer_times = layer_times  # type: ignore[assignment, method-assign]
        return made

    rows = rows_from_candidates(
        bench.candidates, OPTIONS, runner, LABELS, profiler=lambda _, batch, kernels: {"batch": batch, "of": kernels}
    )
    assert all(row["status"] == "ok" for row in rows)
    assert [candidate.profiles for candidate in bench.candidates] == [
        [], [], [{"batch": 1, "of": ["1 3"]}, {"batch": 4, "of": ["4 3"]}],
    ]  # fmt: skip


def test_a_session_has_an_entry_of_its_own() -> None:
    bench = Bench()
    bench.session("torch", 1.0)
    bench.add("tensorrt", reason="no CUDA device")
    bench.rows(OPTIONS)
    ran, skipped = map(session_entry, bench.candidates)
    assert (ran["name"], ran["load_ms"], ran["first_inference_ms"], ran["cold_start_ms"]) == ("torch/fp32", 0, 1.0, 1.0)
    assert ran["peak_memory_bytes"] > 10_000_000
    assert (skipped["status"], skipped["reason"], skipped["cold_start_ms"]) == ("skipped", "no CUDA device", None)


class Many(Bench):
    """Two hundred images, in batches of sixteen."""

    COUNT = 200

    def runner(self, spec: SessionSpec) -> Runner:
        made = super().runner(spec)
        assert isinstance(made, LocalRunner)
        made.images = np.resize(images(), (self.COUNT, 3, 8, 8))
        return made

    def timed(self, options: BenchOptions) -> dict[str, dict[str, Any]]:
        labels = np.resize(LABELS, self.COUNT)
        rows = rows_from_candidates(self.candidates, options, self.runner, labels, images=self.COUNT)
        return {str(row["key"]): row for row in rows}


TIMED = BenchOptions(batches=(1, 16), runs=4, rounds=4, turn_seconds=0)


def test_evaluating_the_images_measures_their_batch() -> None:
    bench = Many()
    session = bench.session("torch", 1.0)
    other = bench.session("openvino", 2.0, kind=Inverted)
    rows = bench.timed(TIMED)
    # Twelve full batches in four turns, of each the first left out; the eight images that are left in the last.
    assert [len(rows[f"{name}/fp32/16"]["samples_ms"]) for name in ("torch", "openvino")] == [8, 8]
    assert all(1 < sample < 1.1 for sample in rows["torch/fp32/16"]["samples_ms"])
    assert (rows["torch/fp32/16"]["images"], rows["torch/fp32/16"]["top1"]) == (200, 1.0)
    assert rows["openvino/fp32/16"]["agreement"] == 0.0
    assert [rows[f"torch/fp32/{batch}"]["evaluated"] for batch in (1, 16)] == [False, True]
    # Opened once; batch 1 in four turns of one run; thirteen batches, and the first turn warms up.
    runs = 1 + FIRST + 3 * LATER + 4 + FIRST + 13
    assert session.runs == other.runs == runs
    assert rows["torch/fp32/16"]["warm_up"] == {"runs": FIRST + 1, "stable": True}


@pytest.mark.parametrize(
    ("count", "options", "parts"),
    [
        (200, TIMED, [(0, 48), (48, 96), (96, 144), (144, 200)]),
        (127, TIMED, None),
        (128, TIMED, [(0, 32), (32, 64), (64, 96), (96, 128)]),
        (200, BenchOptions(batches=(1, 8), runs=4, rounds=4), None),
        (200, BenchOptions(batches=(16,), runs=4, rounds=4, scope=Scope.END_TO_END), None),
        (2000, BenchOptions(batches=(16,), runs=120, rounds=8), None),
    ],
)
def test_images_are_shared_out_over_the_turns_where_they_are_enough(
    count: int, options: BenchOptions, parts: list[tuple[int, int]] | None
) -> None:
    assert parts_of(count, options) == parts


def test_turns_of_the_evaluation_are_those_that_samples_are_split_into() -> None:
    for count in (640, 1000, 2000, 2015):
        options = BenchOptions(batches=(16,), runs=32, rounds=8)
        parts = parts_of(count, options)
        assert parts is not None and parts[-1][1] == count
        taken = [(last - first) // 16 - 1 for first, last in parts]
        assert taken == [len(turn) for turn in np.array_split(np.arange(sum(taken)), 8)]


def test_a_session_that_fails_while_it_is_evaluated_is_a_failed_row() -> None:
    bench = Many()
    bench.session("torch", 1.0, fails_at=20)
    bench.session("openvino", 1.0)
    twin = bench.session("openvino-twin", 1.0)
    bench.candidates[2].same_as = "openvino/fp32"
    rows = bench.timed(TIMED)
    assert rows["torch/fp32/16"]["status"] == "failed" and rows["openvino/fp32/16"]["top1"] == 1.0
    assert rows["openvino-twin/fp32/16"]["top1"] == 1.0 and len(rows["openvino-twin/fp32/16"]["samples_ms"]) == 4
    assert twin.closed


def test_where_the_other_failed_while_measured_the_twin_is_evaluated_after_all() -> None:
    bench = Many()
    bench.session("openvino", 1.0, fails_at=20)
    bench.session("openvino-twin", 1.0)
    bench.candidates[1].same_as = "openvino/fp32"
    assert bench.timed(TIMED)["openvino-twin/fp32/1"]["top1"] == 1.0


class OnDevice(FakeSession):
    copies = True


def test_rows_of_a_device_have_no_anchor_and_its_clocks_are_looked_at() -> None:
    bench, looks = Bench(), list[int]()
    bench.session("torch", 1.0)
    bench.session("tensorrt", 1.0, kind=OnDevice)
    rows = rows_from_candidates(
        bench.candidates, OPTIONS, bench.runner, LABELS, anchor=Anchors(), watch=lambda: looks.append(1)
    )
    by_key = {row["key"]: row for row in rows}
    assert by_key["torch/fp32/1"]["anchor_ms"] is not None and by_key["tensorrt/fp32/1"]["anchor_ms"] is None
    # Of each batch once, in its last turn.
    assert len(looks) == 2


def test_a_worker_that_is_gone_at_the_end_is_a_failed_row_and_no_lost_bench() -> None:
    bench = Bench()
    bench.session("torch", 1.0)
    bench.session("openvino", 1.0)

    def runner(spec: SessionSpec) -> Runner:
        made = bench.runner(spec)
        if spec.runtime == "torch":

            def gone() -> int:
                raise SessionError("the process of torch/fp32 ended")

            made.peak_memory_bytes = gone  # type: ignore[method-assign]
        return made

    rows = {row["key"]: row for row in rows_from_candidates(bench.candidates, OPTIONS, runner, LABELS)}
    assert_did_not_run(rows["torch/fp32/1"], "failed", "ended")
    assert rows["openvino/fp32/1"]["status"] == "ok"


def test_what_was_measured_first_is_no_reference_but_what_is_fp32() -> None:
    bench = Bench()
    bench.session("openvino", 1.0, kind=Inverted, precision=Precision.INT8)
    bench.session("torch", 1.0)
    rows = bench.rows(OPTIONS)
    assert rows["torch/fp32/1"]["agreement"] == 1 and rows["openvino/int8/1"]["agreement"] == 0
    assert rows["openvino/int8/1"]["flips"] == {"lost": COUNT, "won": 0, "p_value": pytest.approx(0, abs=1e-9)}


def test_a_reference_that_nobody_asked_for_is_evaluated_and_has_no_rows() -> None:
    bench = Bench()
    bench.session("openvino", 1.0, kind=Inverted, precision=Precision.INT8)
    bench.session("onnxruntime-cpu", 1.0)
    bench.candidates[-1].timed = False
    rows = bench.rows(OPTIONS)
    assert set(rows) == {"openvino/int8/1", "openvino/int8/4"} and rows["openvino/int8/1"]["agreement"] == 0
    assert {runtime for runtime, _, _ in bench.measured} == {"openvino"}
    assert reference_of(bench.candidates) is bench.candidates[-1]


def test_without_an_fp32_session_there_is_nothing_to_agree_with() -> None:
    bench = Bench()
    bench.session("openvino", 1.0, precision=Precision.INT8)
    row = bench.rows(OPTIONS)["openvino/int8/1"]
    assert row["top1"] == 1
    assert (row["agreement"], row["cosine"], row["sqnr_db"], row["flips"]) == (None, None, None, None)


def test_images_per_second_are_counted_and_not_derived_from_the_median() -> None:
    bench = Bench()
    session = bench.session("torch", 1.0)
    # After it was opened, evaluated in three batches, and warmed up.
    stalled = 1 + 3 + FIRST + 1

    def uneven() -> None:
        bench.clock.now += 1.0 if session.runs == stalled else 1e-3

    session._tick = uneven
    row = bench.rows(OPTIONS)["torch/fp32/1"]
    samples = np.asarray(row["samples_ms"])
    assert row["throughput_ips"] == pytest.approx(1e3 * len(samples) / samples.sum(), abs=0.01)
    assert samples.max() > 500 and np.median(samples) < 2


def test_a_row_says_the_threads_that_its_runtime_took() -> None:
    bench = Bench()
    bench.session("torch", 1.0)
    bench.session("openvino", 1.0).threads = 1
    rows = bench.rows(OPTIONS)
    assert rows["torch/fp32/1"]["threads"] == 2 and rows["openvino/fp32/1"]["threads"] == 1
