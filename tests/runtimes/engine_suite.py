"""What an engine's session does, whether a stand-in or a GPU runs it: imported by both, and collected there.

The module that imports it has a fixture `rig`.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytest
from numpy.typing import NDArray

from alexnet_deploy.artifacts import passport_path
from alexnet_deploy.errors import AlexnetDeployError, ArtifactError, EngineError, InputError, SessionError
from alexnet_deploy.runtimes.engine import EngineSession
from alexnet_deploy.specs import Precision
from tests.graphs import engine_graph, relative_error, shipped_batch

Profiles = Sequence[tuple[int, int, int]]
ONE: Profiles = ((1, 1, 16),)
TWO: Profiles = ((1, 1, 2), (4, 8, 16))
BATCHES = (1, 16, 3, 8, 1, 2, 16)


class Rig(Protocol):
    """How the suite gets its engines.

    Attributes:
        runtime: `tensorrt` or `tensorrt-rtx`.
        tolerance: Largest difference from the reference, as a share of its largest value.
    """

    runtime: str
    tolerance: float

    def engine(self, profiles: Profiles = ONE) -> Path:
        """An engine of the small network with its passport, made anew for this test."""

    def session(self, path: Path, *, graph: bool = False, trust: bool = False) -> EngineSession:
        """Opens it."""

    def memory(self) -> int:
        """Bytes, or blocks, that are in use on the device."""


@cache
def _cpu() -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(engine_graph(Precision.FP32), options, providers=["CPUExecutionProvider"])


def expected(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """The logits of the small network by ONNX Runtime on the CPU."""
    logits: NDArray[np.float32] = _cpu().run(None, {_cpu().get_inputs()[0].name: images})[0]
    return logits


def assert_near(got: NDArray[np.float32], images: NDArray[np.float32], rig: Rig) -> None:
    assert got.dtype == np.float32 and got.shape == (len(images), 10)
    assert relative_error(got, expected(images)) < rig.tolerance


with_and_without_graphs = pytest.mark.parametrize("graph", [False, True], ids=["", "cuda-graph"])


@with_and_without_graphs
@pytest.mark.parametrize("profiles", [ONE, TWO], ids=["one profile", "two profiles"])
def test_batches_of_any_size_come_in_any_order(profiles: Profiles, graph: bool, rig: Rig) -> None:
    images = shipped_batch(16)
    with rig.session(rig.engine(profiles), graph=graph) as session:
        assert session.image_shape == images.shape[1:]
        for batch in (size for size in BATCHES if profiles is ONE or size != 3):
            for start in (0, 16 - batch):
                part = images[start : start + batch]
                # Twice, and a third time: a graph is captured on one run and replayed on the next.
                for _ in range(3):
                    assert_near(session.run(part), part, rig)


@with_and_without_graphs
def test_every_run_reads_its_own_images(graph: bool, rig: Rig) -> None:
    """Copies that are not waited for, or a graph that holds old input, give an earlier answer."""
    images = shipped_batch(16)
    with rig.session(rig.engine(), graph=graph) as session:
        for index in range(16):
            assert_near(session.run(images[index : index + 1]), images[index : index + 1], rig)


def test_outputs_of_an_earlier_run_stay(rig: Rig) -> None:
    images = shipped_batch(4)
    with rig.session(rig.engine()) as session:
        first = session.run(images[:1])
        kept = first.copy()
        session.run(images[1:])
        np.testing.assert_array_equal(first, kept)


@with_and_without_graphs
def test_many_threads_get_each_their_own_answers(graph: bool, rig: Rig) -> None:
    images = shipped_batch(16)
    parts = [images[start : start + size] for size in (1, 2, 3) for start in range(0, 12, size)]
    with rig.session(rig.engine(), graph=graph) as session:
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(session.run, parts * 2))
        for part, rows in zip(parts * 2, found, strict=True):
            assert_near(rows, part, rig)


def test_images_that_lie_anywhere_in_memory_are_taken(rig: Rig) -> None:
    images = shipped_batch(8)
    with rig.session(rig.engine()) as session:
        assert_near(session.run(images[::-2]), images[::-2], rig)
        assert_near(session.run(np.asfortranarray(images)), images, rig)


@pytest.mark.parametrize(("profiles", "most"), [(ONE, 16), (TWO, 2)])
def test_a_session_says_up_to_which_batch_it_takes_all(profiles: Profiles, most: int, rig: Rig) -> None:
    with rig.session(rig.engine(profiles)) as session:
        assert session.largest_batch == most


@pytest.mark.parametrize(("profiles", "batch"), [(ONE, 17), (TWO, 3), (TWO, 17)])
def test_a_batch_that_no_profile_takes_is_refused(profiles: Profiles, batch: int, rig: Rig) -> None:
    images = np.repeat(shipped_batch(1), batch, axis=0)
    with rig.session(rig.engine(profiles)) as session:
        with pytest.raises(InputError, match="no batch of that size") as caught:
            session.run(images)
        assert caught.value.got == batch and "16" in str(caught.value.expected)
        assert f"--profile that takes {batch}" in str(caught.value.remedy)
        assert_near(session.run(images[:1]), images[:1], rig)


def test_a_wrong_image_size_is_refused(rig: Rig) -> None:
    with rig.session(rig.engine()) as session, pytest.raises(InputError, match="does not fit"):
        session.run(np.zeros((1, 3, 64, 64), np.float32))


@with_and_without_graphs
def test_the_device_times_a_run_copies_apart(graph: bool, rig: Rig) -> None:
    images = shipped_batch(16)
    with rig.session(rig.engine(), graph=graph) as session:
        for _ in range(3):
            session.run(images)
            times = session.device_times
            assert times is not None
            assert min(times.copy_in_ms, times.compute_ms, times.copy_out_ms) > 0


@with_and_without_graphs
def test_memory_comes_back(graph: bool, rig: Rig) -> None:
    path, images = rig.engine(TWO), shipped_batch(16)
    with rig.session(path, graph=graph) as session:
        session.run(images)
    before = rig.memory()
    for _ in range(3):
        with rig.session(path, graph=graph) as session:
            session.run(images[:1])
            session.run(images)
    assert rig.memory() <= before


def test_nothing_is_allocated_once_every_batch_was_seen(rig: Rig) -> None:
    """The first run of a shape may load kernels."""
    images = shipped_batch(16)
    with rig.session(rig.engine()) as session:
        for batch in (16, *BATCHES):
            session.run(images[:batch])
        before = rig.memory()
        for batch in BATCHES:
            session.run(images[:batch])
        assert rig.memory() == before


def test_several_sessions_live_side_by_side(rig: Rig) -> None:
    path, images = rig.engine(), shipped_batch(4)
    with rig.session(path) as first:
        with rig.session(path) as second:
            assert_near(second.run(images), images, rig)
            assert_near(first.run(images[:2]), images[:2], rig)
        assert_near(first.run(images), images, rig)


def test_closing_twice_is_fine_and_a_closed_session_says_so(rig: Rig) -> None:
    session = rig.session(rig.engine())
    session.close()
    session.close()
    with pytest.raises(SessionError, match="closed"):
        session.run(shipped_batch(1))


def test_an_engine_without_its_passport_is_opened_only_when_trusted(rig: Rig) -> None:
    path, images = rig.engine(), shipped_batch(1)
    passport_path(path).unlink()
    with pytest.raises(ArtifactError, match="no passport"):
        rig.session(path)
    with rig.session(path, trust=True) as session:
        assert_near(session.run(images), images, rig)


@pytest.mark.parametrize("seed", range(20))
def test_a_damaged_engine_is_not_opened(seed: int, rig: Rig) -> None:
    path, random_ = rig.engine(), random.Random(seed)
    data = bytearray(path.read_bytes())
    for _ in range(random_.randint(1, 8)):
        data[random_.randrange(len(data))] ^= random_.randint(1, 255)
    path.write_bytes(bytes(data[: random_.choice([len(data), len(data), random_.randrange(len(data))])]))
    with pytest.raises(AlexnetDeployError, match=r"passport|hash|describes"):
        rig.session(path)


def test_an_engine_for_another_gpu_is_refused_with_the_command(rig: Rig) -> None:
    from alexnet_deploy.artifacts import read_passport
    from tests.passports import write_passport

    path = rig.engine()
    passport = read_passport(path)
    assert passport is not None
    facts = json.loads(json.dumps(passport.facts))
    facts["plan"]["sms"] = ["sm70"]
    write_passport(path, kind="engine", facts=facts, tools=passport.tools)
    with pytest.raises(EngineError, match="another GPU") as caught:
        rig.session(path)
    assert caught.value.expected == "SM70"
    assert f"alexnet-deploy build-engine --{Precision.FP32}" in str(caught.value.remedy)
