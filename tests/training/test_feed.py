"""Every image of a step belongs to one part of one process, and the order is that of one process."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from alexnet_deploy.data import batches as batches_module
from alexnet_deploy.data.batches import Skipped
from alexnet_deploy.data.sources import ArraySource, ImageSource
from alexnet_deploy.errors import InputError
from alexnet_deploy.training.feed import CHUNK, Feed, Part, chunks_of, share_of
from alexnet_deploy.training.ranks import Ranks
from tests.conftest import random_images, small_preprocessing
from tests.training.test_loop import Damaged, options_of


class OneOf(Ranks):
    """A process that says it is one of several."""

    def __init__(self, rank: int, size: int) -> None:
        super().__init__()
        self.rank, self.size = rank, size


def steps_of(
    rank: int, size: int, accumulate: int, *, images: int = 23, batch: int = 7, done: int = 0
) -> list[list[tuple[list[int], list[float]]]]:
    """Of every step and part: where its images stand in the batch, and their means."""
    feed = Feed(
        random_images(images), small_preprocessing(), options_of(batch_size=batch), OneOf(rank, size), accumulate, None
    )
    return [
        [
            ([int(own) + step.share.start for own in part.own], part.inputs.mean(dim=(1, 2, 3)).tolist())
            for part in step.parts
        ]
        for step in feed.steps(1, done)
    ]  # fmt: skip


@given(st.integers(0, 200), st.integers(1, 20))
def test_shares_are_all_of_it_in_order_and_even(count: int, parts: int) -> None:
    shares = [range(count)[share_of(count, index, parts)] for index in range(parts)]
    assert [one for share in shares for one in share] == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@given(st.integers(0, 2000), st.integers(1, 9))
def test_a_pass_over_all_images_is_cut_at_whole_chunks(count: int, size: int) -> None:
    cuts = [range(count)[chunks_of(count, rank, size)] for rank in range(size)]
    assert [one for cut in cuts for one in cut] == list(range(count))
    assert all(cut.start % CHUNK == 0 for cut in cuts if len(cut))


@pytest.mark.parametrize(("size", "accumulate"), [(2, 1), (1, 3), (2, 2), (3, 2)])
def test_the_parts_of_all_processes_are_the_batches_of_one(size: int, accumulate: int) -> None:
    whole = steps_of(0, 1, 1)
    cut = [steps_of(rank, size, accumulate) for rank in range(size)]
    assert len(whole) == 3
    for step, [(places, means)] in enumerate(whole):
        parts = [part for process in cut for part in process[step]]
        assert [place for part, _ in parts for place in part] == places == list(range(7))
        assert [mean for _, part in parts for mean in part] == pytest.approx(means, abs=1e-6)


class Together(ArraySource):
    """Images that come only where two are asked for at once, one of them damaged."""

    decodes = True

    def __init__(self, source: ArraySource) -> None:
        super().__init__(source.images, source.labels, source.classes, source.name)
        self.meeting = threading.Barrier(2)

    def image(self, index: int) -> NDArray[np.uint8]:
        self.meeting.wait(timeout=5)
        return super().image(index)


def parts_of(source: ImageSource, cpus: int, skipped: Skipped | None = None) -> list[Part]:
    feed = Feed(source, small_preprocessing(), options_of(batch_size=8), Ranks(cpus), 2, skipped)
    return [part for step in feed.steps(0, 0) for part in step.parts]


def test_a_part_is_made_by_several_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches_module, "usable_cpus", lambda: 2)
    assert sum(len(part.labels) for part in parts_of(Together(random_images(16)), 2)) == 16


@pytest.mark.parametrize("bad", [set(), {3, 4, 11}])
def test_parts_are_the_same_for_any_number_of_threads(bad: set[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches_module, "usable_cpus", lambda: 8)
    source, skipped = Damaged(random_images(20), bad), [Skipped(), Skipped()]
    one, many = (parts_of(source, cpus, names) for cpus, names in zip((1, 5), skipped, strict=True))
    assert len(one) == len(many) == 4
    for first, second in zip(one, many, strict=True):
        assert torch.equal(first.inputs, second.inputs) and torch.equal(first.labels, second.labels)
        assert first.own.tolist() == second.own.tolist()
    assert skipped[0].names == skipped[1].names and bool(skipped[0].names) == bool(bad)


def test_an_epoch_goes_on_in_the_middle() -> None:
    assert steps_of(1, 2, 2, done=1) == steps_of(1, 2, 2)[1:]


def test_the_order_is_the_seeds_and_the_epochs() -> None:
    source = random_images(20)
    feeds = [
        Feed(source, small_preprocessing(), options_of(seed=seed, flip=False), Ranks(), 1, None) for seed in (0, 0, 1)
    ]

    def labels(feed: Feed, epoch: int) -> list[int]:
        return [int(label) for step in feed.steps(epoch, 0) for part in step.parts for label in part.labels]

    assert labels(feeds[0], 0) == labels(feeds[1], 0)
    assert labels(feeds[0], 0) != labels(feeds[0], 1)
    assert labels(feeds[0], 0) != labels(feeds[2], 0)
    order = np.random.default_rng([0, 0]).permutation(20)[:16]
    assert labels(feeds[0], 0) == source.labels[order].tolist()


@pytest.mark.parametrize(("images", "batch", "size", "accumulate"), [(23, 7, 2, 4), (3, 64, 4, 1), (23, 1, 2, 1)])
def test_a_batch_that_cannot_be_cut_is_refused(images: int, batch: int, size: int, accumulate: int) -> None:
    with pytest.raises(InputError, match="fewer images than it is to be cut into") as caught:
        steps_of(0, size, accumulate, images=images, batch=batch)
    assert "--batch-size" in str(caught.value.remedy)
