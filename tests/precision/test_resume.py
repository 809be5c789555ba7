"""An interrupted calibration goes on where it was, to the same digits; counts that are not its own are not used."""

from __future__ import annotations

import contextlib
import io
import json
import math
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from alexnet_deploy.data.batches import Batch, batches
from alexnet_deploy.data.sources import ArraySource, ImageSource
from alexnet_deploy.errors import GraphError, ImageError
from alexnet_deploy.precision import calibrate
from alexnet_deploy.precision.calibrate import CALIBRATION_BATCH, table_from_images
from alexnet_deploy.precision.histogram import Histogram
from alexnet_deploy.precision.resume import Progress
from alexnet_deploy.precision.table import CalibrationTable, observed
from alexnet_deploy.progress import Track, Voice
from tests.conftest import random_images, small_preprocessing
from tests.graphs import GRAPH_HASH, small_graph
from tests.precision.test_calibrate import PLAIN, grey, layers, small_run, source_of, with_operator, written

# Three whole batches and one of five.
COUNT = 3 * CALIBRATION_BATCH + 5
REQUEST = "the request"


def images() -> ImageSource:
    return random_images(COUNT, side=4, colour=True)


@cache
def whole() -> bytes:
    """The table of a run that nothing interrupts."""
    return written(run())


def run(progress: Progress | None = None, voice: Voice | None = None) -> CalibrationTable:
    return table_from_images(
        layers(), images(), PLAIN, GRAPH_HASH, progress=progress, voice=voice or Voice(quiet=True, stream=io.StringIO())
    )


class Stopping(Voice):
    """A voice whose bar is where Ctrl-C arrives, after so many batches."""

    def __init__(self, count: int, exception: type[BaseException] = KeyboardInterrupt) -> None:
        super().__init__(quiet=True, stream=io.StringIO())
        self.left, self.exception, self.started_at, self.total = count, exception, -1, -1

    @contextlib.contextmanager
    def track(self, description: str, total: int, done: int = 0) -> Iterator[Track]:
        self.started_at, self.total = done, total
        with super().track(description, total, done) as track:
            advance = track.advance

            def stopping(count: int = 1, note: str = "") -> None:
                advance(count, note)
                self.left -= 1
                if not self.left:
                    raise self.exception

            track.advance = stopping  # type: ignore[method-assign]
            yield track


@pytest.fixture
def progress(tmp_path: Path) -> Progress:
    return Progress(tmp_path / "table.json.part", REQUEST)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The images that calibration reads, in order."""
    # Its images are not among them.
    whole()
    found: list[int] = []

    def noting(*args: Any, **kwargs: Any) -> Iterator[Batch]:
        for batch in batches(*args, **kwargs):
            found.extend(batch.indices)
            yield batch

    monkeypatch.setattr(calibrate, "batches", noting)
    return found


def interrupted(progress: Progress, count: int) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(progress, Stopping(count))


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_a_run_that_was_interrupted_after_a_batch_goes_on_to_the_same_table(
    progress: Progress, count: int, read: list[int]
) -> None:
    interrupted(progress, count)
    done = min(count * CALIBRATION_BATCH, COUNT)
    assert len(read) == done and progress.path is not None and progress.path.is_file()
    voice = Stopping(-1)
    assert written(run(progress, voice)) == whole()
    assert (voice.started_at, voice.total) == (done, COUNT)
    assert read == sorted(range(COUNT), key=images().content_hash)


def test_a_run_that_is_interrupted_after_every_batch_comes_to_its_end(progress: Progress, read: list[int]) -> None:
    for _ in range(4):
        interrupted(progress, 1)
    table = run(progress)
    assert sorted(read) == list(range(COUNT))
    assert written(table) == whole()


@pytest.mark.parametrize("before", [0, 1, 2, 3])
def test_an_interrupt_while_a_batch_is_read_loses_that_batch_alone(
    progress: Progress, before: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopping(*args: Any, **kwargs: Any) -> Iterator[Batch]:
        for number, batch in enumerate(batches(*args, **kwargs)):
            if number == before:
                raise KeyboardInterrupt
            yield batch

    monkeypatch.setattr(calibrate, "batches", stopping)
    with pytest.raises(KeyboardInterrupt):
        run(progress)
    monkeypatch.undo()
    assert progress.restore(["x", "r", "f", "y"])[0] == before * CALIBRATION_BATCH
    assert progress.path is not None and progress.path.exists() == (before > 0)
    assert written(run(progress)) == whole()


@pytest.mark.parametrize("before", [0, 1, 6, 9])
def test_an_interrupt_between_two_tensors_of_a_batch_counts_none_of_them(
    progress: Progress, before: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    add, calls = Histogram.add, 0

    def stopping(histogram: Histogram, values: NDArray[np.float32]) -> None:
        nonlocal calls
        if calls == before:
            raise KeyboardInterrupt
        calls += 1
        add(histogram, values)

    monkeypatch.setattr(Histogram, "add", stopping)
    with pytest.raises(KeyboardInterrupt):
        run(progress)
    monkeypatch.undo()
    done, histograms = progress.restore(["x", "r", "f", "y"])
    assert done == before // 4 * CALIBRATION_BATCH
    assert int(histograms["x"].magnitudes.sum()) == done * 48
    assert written(run(progress)) == whole()


def test_an_interrupt_while_thresholds_are_chosen_reads_no_image_again(
    progress: Progress, read: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopping(histogram: Histogram, percentile: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(calibrate, "observed", stopping)
    with pytest.raises(KeyboardInterrupt):
        run(progress)
    monkeypatch.setattr(calibrate, "observed", observed)
    table = run(progress)
    assert len(read) == COUNT
    assert written(table) == whole()


def test_a_real_network_is_resumed_to_the_same_table(progress: Progress) -> None:
    def small(voice: Voice) -> CalibrationTable:
        return table_from_images(
            small_graph(), source_of(), small_preprocessing(), GRAPH_HASH, progress=progress, voice=voice
        )

    with pytest.raises(KeyboardInterrupt):
        small(Stopping(1))
    assert written(small(Stopping(-1))) == written(small_run())


def test_the_images_may_come_in_another_order_when_the_run_goes_on(progress: Progress) -> None:
    interrupted(progress, 2)
    order = np.random.default_rng(0).permutation(COUNT)
    table = table_from_images(layers(), images().subset(order), PLAIN, GRAPH_HASH, progress=progress)
    assert written(table) == whole()


def test_a_failure_keeps_what_was_counted_before_it(progress: Progress) -> None:
    class Damaged(Exception):
        pass

    with pytest.raises(Damaged):
        run(progress, Stopping(2, Damaged))
    assert progress.restore(["x", "r", "f", "y"])[0] == 2 * CALIBRATION_BATCH
    assert written(run(progress)) == whole()


def test_an_activation_that_is_not_a_number_is_an_error_after_resuming_too(progress: Progress) -> None:
    source = grey(*range(100, 140), 50)
    for _ in range(2):
        with pytest.raises(GraphError, match="activation h is not finite"):
            table_from_images(with_operator("Sqrt"), source, PLAIN, GRAPH_HASH, progress=progress)


def test_a_damaged_image_is_an_error_before_anything_is_kept(progress: Progress) -> None:
    class Damaged(ArraySource):
        def image(self, index: int) -> NDArray[np.uint8]:
            if index == COUNT - 1:
                raise ImageError("image cannot be read")
            return super().image(index)

    noise = random_images(COUNT, side=4, colour=True)
    damaged = Damaged(noise.images, noise.labels, noise.classes, "damaged")
    with pytest.raises(ImageError):
        table_from_images(layers(), damaged, PLAIN, GRAPH_HASH, progress=progress)
    assert progress.path is not None and not progress.path.exists()


def test_nothing_is_kept_where_no_file_was_named() -> None:
    progress = Progress(None, REQUEST)
    interrupted(progress, 2)
    progress.forget()
    assert progress.restore(["x"]) == (0, {"x": Histogram()})
    assert list(Path.cwd().iterdir()) == []


def test_a_run_that_comes_to_its_end_leaves_the_file_to_who_writes_the_table(progress: Progress) -> None:
    run(progress)
    assert progress.path is not None and not progress.path.exists()
    interrupted(progress, 1)
    run(progress)
    assert progress.path.exists()
    progress.forget()
    progress.forget()
    assert not progress.path.exists()


def test_counts_of_another_request_are_not_used(progress: Progress, read: list[int]) -> None:
    interrupted(progress, 2)
    other = replace(progress, request="another request")
    read.clear()
    assert written(run(other)) == whole()
    assert len(read) == COUNT


def test_counts_of_other_tensors_are_not_used(progress: Progress) -> None:
    interrupted(progress, 1)
    assert progress.restore(["x", "r", "f", "y"])[0] == CALIBRATION_BATCH
    for names in (["x", "r", "f"], ["x", "r", "f", "z"], ["r", "x", "f", "y"]):
        assert progress.restore(names) == (0, {name: Histogram() for name in names})


def test_an_interrupt_before_the_first_batch_leaves_what_was_kept_of_another_request(progress: Progress) -> None:
    interrupted(progress, 1)
    other = replace(progress, request="another request")
    with pytest.raises(KeyboardInterrupt), other.kept(lambda: other.restore(["x", "r", "f", "y"])):
        raise KeyboardInterrupt
    assert progress.restore(["x", "r", "f", "y"])[0] == CALIBRATION_BATCH


@cache
def kept_after_two_batches() -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "part"
        interrupted(Progress(path, REQUEST), 2)
        return path.read_text()


def changed(**changes: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda values: values | changes


def changed_tensor(**changes: Any) -> Callable[[dict[str, Any]], Any]:
    def change(values: dict[str, Any]) -> Any:
        values["tensors"]["r"] |= changes
        return values

    return change


DAMAGE: dict[str, Callable[[dict[str, Any]], Any]] = {
    "list": lambda values: [],
    "null": lambda values: None,
    "text": lambda values: "counts",
    "nothing": lambda values: {},
    "one-image-more": changed(done=CALIBRATION_BATCH * 2 + 1),
    "one-batch-more": changed(done=CALIBRATION_BATCH * 3),
    "word-for-a-number": changed(done="all"),
    "no-number": changed(done=None),
    "tensors-gone": changed(tensors={}),
    "tensors-list": changed(tensors=["x", "r", "f", "y"]),
    "tensors-null": changed(tensors=dict.fromkeys(["x", "r", "f", "y"])),
    "fingerprint": changed(fingerprint="0" * 16),
    "smaller-maximum": changed_tensor(max=0.25),
    "infinite-maximum": changed_tensor(max=math.inf),
    "maximum-not-a-number": changed_tensor(max=math.nan),
    "smaller-width": changed_tensor(exponent=-20),
    "absurd-width": changed_tensor(exponent=10**30),
    "other-counts": changed_tensor(counts="AAAA"),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_file_starts_anew(progress: Progress, damage: Callable[[dict[str, Any]], Any]) -> None:
    names, path = ["x", "r", "f", "y"], progress.path
    assert path is not None
    path.write_text(json.dumps(damage(json.loads(kept_after_two_batches()))))
    assert progress.restore(names) == (0, {name: Histogram() for name in names})
    path.write_text(kept_after_two_batches())
    assert progress.restore(names)[0] == 2 * CALIBRATION_BATCH


def test_a_run_over_a_damaged_file_is_a_run_over_none(progress: Progress, read: list[int]) -> None:
    assert progress.path is not None
    progress.path.write_text(json.dumps(json.loads(kept_after_two_batches()) | {"done": CALIBRATION_BATCH}))
    assert written(run(progress)) == whole()
    assert len(read) == COUNT


@pytest.mark.parametrize("keep", [0, 1, 100, 0.5, 0.99])
def test_a_file_that_was_cut_short_starts_anew(progress: Progress, keep: float) -> None:
    assert progress.path is not None
    content = kept_after_two_batches().encode()
    progress.path.write_bytes(content[: int(keep * len(content)) if isinstance(keep, float) else keep])
    assert progress.restore(["x", "r", "f", "y"])[0] == 0


def test_a_file_that_is_not_text_starts_anew(progress: Progress) -> None:
    assert progress.path is not None
    progress.path.write_bytes(b"\xff\xfe\x00")
    assert progress.restore(["x"])[0] == 0


def test_a_folder_in_the_place_of_the_file_starts_anew(progress: Progress) -> None:
    assert progress.path is not None
    progress.path.mkdir()
    assert progress.restore(["x"])[0] == 0


def test_what_was_kept_comes_back_whole(progress: Progress) -> None:
    random = np.random.default_rng(0)
    histograms = {name: Histogram() for name in ("a", "b")}
    histograms["a"].add(random.standard_normal(1000).astype(np.float32))
    histograms["b"].add(-random.random(1000).astype(np.float32) * np.float32(1e-20))
    with pytest.raises(KeyboardInterrupt), progress.kept(lambda: (32, histograms)):
        raise KeyboardInterrupt
    assert progress.restore(["a", "b"]) == (32, histograms)
