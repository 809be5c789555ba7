"""Batches hold every image once, in order, and say which ones they left out."""

from __future__ import annotations

import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from alexnet_deploy.data import batches as module
from alexnet_deploy.data.batches import PreprocessedImages, Skipped, batches, decoding_threads, load_batch, undamaged
from alexnet_deploy.data.preprocessing import batch_from_images
from alexnet_deploy.data.sources import FolderSource, ImageSource, read_image
from alexnet_deploy.errors import DataError, ImageError
from alexnet_deploy.specs import Preprocessing, Resize
from tests.conftest import random_images

SPEC = Preprocessing(image_size=64, resize_size=64, resize=Resize.STRETCH)


class Damaged(ImageSource):
    """Another source in which some images cannot be read."""

    def __init__(self, source: ImageSource, bad: set[int]) -> None:
        self.source, self.bad = source, bad
        self.name, self.classes, self.labels = source.name, source.classes, source.labels

    def image(self, index: int) -> NDArray[np.uint8]:
        if index in self.bad:
            raise ImageError(f"{Path('photos') / str(index)}.jpg cannot be read as an image")
        return self.source.image(index)


@pytest.mark.parametrize(("count", "size", "sizes"), [(7, 3, [3, 3, 1]), (6, 3, [3, 3]), (2, 5, [2]), (3, 1, [1] * 3)])
def test_every_image_comes_once_and_in_order(count: int, size: int, sizes: list[int]) -> None:
    source = random_images(count)
    found = list(batches(source, size, SPEC))
    assert [len(batch.labels) for batch in found] == sizes
    assert np.concatenate([batch.indices for batch in found]).tolist() == list(range(count))
    assert np.array_equal(np.concatenate([batch.labels for batch in found]), source.labels)
    wanted = batch_from_images([source.image(i) for i in range(count)], SPEC)
    assert np.array_equal(np.concatenate([batch.images for batch in found]), wanted)


def test_a_batch_has_the_types_that_a_network_takes() -> None:
    batch = next(batches(random_images(4), 3, SPEC))
    assert batch.images.dtype == np.float32
    assert batch.images.shape == (3, 3, 64, 64)
    assert batch.labels.dtype == batch.indices.dtype == np.int64


def test_named_images_come_in_the_named_order() -> None:
    source = random_images(9)
    found = list(batches(source, 2, SPEC, indices=[8, 0, 3]))
    assert [batch.indices.tolist() for batch in found] == [[8, 0], [3]]
    assert found[1].labels.tolist() == [3]
    assert np.array_equal(found[0].images, batch_from_images([source.image(8), source.image(0)], SPEC))


def test_no_images_make_no_batches() -> None:
    assert list(batches(random_images(3), 2, SPEC, indices=[])) == []


def test_the_named_images_are_mirrored_and_no_others() -> None:
    source = random_images(5, colour=True)
    plain = np.concatenate([batch.images for batch in batches(source, 2, SPEC)])
    flips = np.array([True, False, False, True, True])
    mirrored = np.concatenate([batch.images for batch in batches(source, 2, SPEC, flips=flips)])
    for index, flip in enumerate(flips):
        # The image is mirrored before it is resized, which rounds to bytes.
        wanted = plain[index, :, :, ::-1] if flip else plain[index]
        assert float(np.abs(mirrored[index] - wanted).max()) <= (1.01 / 255 / 0.224 if flip else 0)


def test_flips_follow_the_named_order_and_not_the_index() -> None:
    source = random_images(4)
    wanted = batch_from_images([source.image(3), source.image(0)[:, ::-1]], SPEC)
    found = load_batch(source, np.array([3, 0]), SPEC, flips=np.array([False, True]))
    assert np.array_equal(found.images, wanted)


def test_a_damaged_image_is_an_error_that_names_it() -> None:
    source = Damaged(random_images(6), {4})
    seen = []
    with pytest.raises(ImageError, match=r"photos/4\.jpg"):
        for batch in batches(source, 2, SPEC):
            seen += batch.indices.tolist()
    assert seen == [0, 1, 2, 3]


def test_damaged_images_can_be_left_out_and_are_named() -> None:
    source = Damaged(random_images(7), {1, 4})
    skipped = Skipped()
    found = list(batches(source, 3, SPEC, skipped=skipped))
    assert [batch.indices.tolist() for batch in found] == [[0, 2], [3, 5], [6]]
    assert [batch.labels.tolist() for batch in found] == [[0, 2], [3, 5], [6]]
    assert len(skipped) == 2
    assert ["photos/1.jpg" in skipped.names[0], "photos/4.jpg" in skipped.names[1]] == [True, True]


def test_flips_stay_with_their_image_where_another_is_left_out() -> None:
    source = Damaged(random_images(3), {0})
    found = load_batch(source, np.arange(3), SPEC, flips=np.array([True, False, True]), skipped=Skipped())
    wanted = batch_from_images([source.image(1), source.image(2)[:, ::-1]], SPEC)
    assert np.array_equal(found.images, wanted)


def test_a_batch_of_which_nothing_is_left_is_left_out() -> None:
    skipped = Skipped()
    found = list(batches(Damaged(random_images(6), {2, 3}), 2, SPEC, skipped=skipped))
    assert [batch.indices.tolist() for batch in found] == [[0, 1], [4, 5]]
    assert len(skipped) == 2


def test_a_consumer_may_stop_early() -> None:
    stream = batches(random_images(10), 2, SPEC)
    assert next(stream).indices.tolist() == [0, 1]
    stream.close()  # type: ignore[attr-defined]
    assert list(stream) == []


def test_undamaged_images_are_found_and_the_others_named() -> None:
    source = Damaged(random_images(6), {0, 3})
    skipped = Skipped()
    assert undamaged(source, skipped).tolist() == [1, 2, 4, 5]
    assert ["0.jpg" in skipped.names[0], "3.jpg" in skipped.names[1], len(skipped)] == [True, True, 2]


def test_where_nothing_may_be_skipped_every_image_is_taken_unread() -> None:
    assert undamaged(Damaged(random_images(3), {0, 1, 2}), None).tolist() == [0, 1, 2]


def test_preprocessed_images_are_made_when_a_slice_is_asked_for() -> None:
    source = Damaged(random_images(6), {0})
    images = PreprocessedImages(source=source, spec=SPEC, indices=np.array([5, 0, 2, 4]))
    assert len(images) == 4
    assert np.array_equal(images[2:], batch_from_images([source.image(2), source.image(4)], SPEC))
    assert images[9:].shape == (0, 3, 64, 64)
    with pytest.raises(ImageError, match=r"0\.jpg"):
        images[:2]


# A thread that is waited for longer than this is not coming.
PATIENCE_S = 60


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of several kinds and sizes, of which the seventh is damaged."""
    folder = tmp_path_factory.mktemp("folder")
    (folder / "class").mkdir()
    random = np.random.default_rng(0)
    for index, mode in enumerate(["RGB", "L", "RGBA", "P", "CMYK", "1"] * 3):
        pixels = random.integers(0, 256, (70 + 5 * index, 120 - 3 * index, 3), dtype=np.uint8)
        path = folder / "class" / f"{index:02d}{'.jpg' if mode == 'CMYK' else '.png'}"
        Image.fromarray(pixels).convert(mode).save(path)
    (folder / "class" / "06.png").write_bytes(b"no image")
    return folder


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_batches_are_the_same_for_any_number_of_threads(folder: Path, threads: int) -> None:
    source = FolderSource(folder)
    order = np.random.default_rng(1).permutation(len(source))
    flips = np.random.default_rng(2).random(len(source)) < 0.5
    skipped = Skipped()
    found = list(batches(source, 4, SPEC, indices=order, flips=flips, skipped=skipped, threads=threads))
    kept = [(int(index), flip) for index, flip in zip(order, flips, strict=True) if index != 6]
    assert np.concatenate([batch.indices for batch in found]).tolist() == [index for index, _ in kept]
    pictures = [read_image(source.paths[index])[:, :: -1 if flip else 1] for index, flip in kept]
    assert np.array_equal(np.concatenate([batch.images for batch in found]), batch_from_images(pictures, SPEC))
    assert len(skipped) == 1 and "06.png" in skipped.names[0]


class Watched(ImageSource):
    """Another source, and who asked it for what."""

    def __init__(self, source: ImageSource) -> None:
        self.source, self.name, self.classes, self.labels = source, source.name, source.classes, source.labels
        self.asked: list[tuple[int, int]] = []

    def image(self, index: int) -> NDArray[np.uint8]:
        self.asked.append((index, threading.get_ident()))
        return self.source.image(index)


class Meeting(Watched):
    """Gives no image before so many threads ask for one."""

    def __init__(self, source: ImageSource, parties: int) -> None:
        super().__init__(source)
        self.barrier = threading.Barrier(parties)

    def image(self, index: int) -> NDArray[np.uint8]:
        self.barrier.wait(PATIENCE_S)
        return super().image(index)


def test_as_many_threads_work_as_were_asked_for() -> None:
    source = Meeting(random_images(9), 3)
    assert sum(len(batch.indices) for batch in batches(source, 3, SPEC, threads=3)) == 9
    threads = {thread for _, thread in source.asked}
    assert len(threads) == 3 and threading.get_ident() not in threads


def test_looking_for_damaged_images_takes_several_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "usable_cpus", lambda: 2)
    assert undamaged(Meeting(random_images(6), 2), Skipped()).tolist() == list(range(6))


@pytest.mark.parametrize(("cpus", "threads"), [(1, 1), (4, 4), (256, module.MOST_THREADS)])
def test_by_default_every_usable_cpu_decodes_up_to_a_bound(
    cpus: int, threads: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "usable_cpus", lambda: cpus)
    for source in (FolderSource(folder), FolderSource(folder).subset([0])):
        assert decoding_threads(source, SPEC) == threads


def test_small_images_that_lie_in_memory_are_made_by_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "usable_cpus", lambda: 4)
    for source in (random_images(4), random_images(4).subset([1])):
        assert decoding_threads(source, SPEC) == 1
        assert decoding_threads(source, Preprocessing()) == 4


class FirstIsSlow(ImageSource):
    """Two damaged images, of which the second is found first."""

    def __init__(self) -> None:
        source = random_images(4)
        self.name, self.classes, self.labels = source.name, source.classes, source.labels
        self.later = threading.Event()

    def image(self, index: int) -> NDArray[np.uint8]:
        if index == 0:
            assert self.later.wait(PATIENCE_S)
        else:
            self.later.set()
        raise ImageError(f"{index}.jpg cannot be read as an image")


def test_of_two_damaged_images_the_first_is_told_whichever_is_found_first() -> None:
    with pytest.raises(ImageError, match=r"0\.jpg"):
        next(batches(FirstIsSlow(), 4, SPEC, threads=2))
    skipped = Skipped()
    assert list(batches(FirstIsSlow(), 4, SPEC, threads=2, skipped=skipped)) == []
    assert [name.split(".")[0] for name in skipped.names] == ["0", "1", "2", "3"]


def test_no_more_than_two_batches_are_made_ahead() -> None:
    source = Watched(random_images(40))
    for number, batch in enumerate(batches(source, 4, SPEC, threads=3)):
        assert len(batch.indices) == 4
        assert max(index for index, _ in source.asked) < 4 * (number + 2)


def decoding() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("decode")]


def test_no_thread_is_left_when_the_batches_end_or_nobody_wants_more() -> None:
    assert len(list(batches(random_images(6), 2, SPEC, threads=2))) == 3
    assert decoding() == []
    stream = batches(random_images(40), 2, SPEC, threads=2)
    next(stream)
    assert decoding() != []
    stream.close()  # type: ignore[attr-defined]
    assert decoding() == []
    with pytest.raises(ImageError):
        list(batches(Damaged(random_images(40), {3}), 2, SPEC, threads=2))
    assert decoding() == []


def test_a_slice_is_made_by_the_thread_that_asks_and_nothing_runs_on() -> None:
    """A session is timed between two slices."""
    source = Watched(random_images(6))
    before = threading.active_count()
    images = PreprocessedImages(source=source, spec=SPEC, indices=np.arange(6))
    assert images[:4].shape == (4, 3, 64, 64)
    assert source.asked == [(index, threading.get_ident()) for index in range(4)]
    assert threading.active_count() == before


def test_an_image_too_narrow_for_its_batch_is_an_error_and_not_a_damaged_one(tmp_path: Path) -> None:
    (tmp_path / "class").mkdir()
    Image.fromarray(np.zeros((1, 60_000), np.uint8)).save(tmp_path / "class" / "x.png")
    with pytest.raises(DataError, match="too narrow") as caught:
        next(batches(FolderSource(tmp_path), 2, Preprocessing(), skipped=Skipped()))
    assert not isinstance(caught.value, ImageError) and str(tmp_path / "class" / "x.png") in caught.value.problem


def test_many_threads_leave_the_filters_of_warnings_as_they_were(tmp_path: Path) -> None:
    """Pillow warns of each of these files; what is filtered is the whole process's, and not a thread's."""
    (tmp_path / "class").mkdir()
    for index in range(24):
        image = Image.fromarray(np.full((9, 9), index, np.uint8)).convert("P")
        image.save(tmp_path / "class" / f"{index}.png", transparency=bytes([0, 128]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in batches(FolderSource(tmp_path), 4, SPEC, threads=4):
            pass
        with pytest.raises(UserWarning, match="ours"):
            warnings.warn("ours", UserWarning, stacklevel=1)
