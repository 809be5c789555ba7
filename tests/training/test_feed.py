"""Every image of a step belongs to one part of one process, and the order is that of one process."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alexnet_deploy.errors import InputError
from alexnet_deploy.training.feed import CHUNK, Feed, chunks_of, share_of
from alexnet_deploy.training.ranks import Ranks
from tests.conftest import random_images, small_preprocessing
from tests.training.test_loop import options_of


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
