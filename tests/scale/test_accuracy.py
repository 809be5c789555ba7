"""Accuracy from chunks is accuracy from everything at once."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from numpy.typing import NDArray

from alexnet_deploy.bench.statistics import accuracy_from_logits
from alexnet_deploy.scale.accuracy import AccuracySums, ReferenceLogits
from alexnet_deploy.scale.chunks import chunks_of


def logits_of(count: int, classes: int, seed: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(0, 3, (count, classes)).astype(np.float32)


def summed(
    logits: NDArray[np.float32], reference: NDArray[np.float32], labels: NDArray[np.int64] | None, size: int
) -> AccuracySums:
    sums, kept = AccuracySums(), ReferenceLogits()
    for chunk in chunks_of(len(logits), size):
        part = slice(chunk.start, chunk.stop)
        kept.append(reference[part])
        sums.add(logits[part], kept.rows(chunk.start, chunk.stop), None if labels is None else labels[part])
    kept.close()
    return sums


@pytest.mark.parametrize("size", [1, 7, 64, 1000])
@pytest.mark.parametrize("classes", [2, 10])
def test_chunks_say_what_all_images_say(size: int, classes: int) -> None:
    reference = logits_of(300, classes, 1)
    logits = reference + logits_of(300, classes, 2) / np.float32(3)
    labels = np.random.default_rng(3).integers(0, classes, 300)
    found = dataclasses.asdict(summed(logits, reference, labels, size).accuracy())
    whole = dataclasses.asdict(accuracy_from_logits(logits, reference, labels))
    assert found.pop("ece") == pytest.approx(whole.pop("ece"), rel=1e-12)
    assert found.pop("cosine") == pytest.approx(whole.pop("cosine"), abs=1e-8)
    assert found == whole


def test_without_labels_the_reference_is_all_there_is() -> None:
    reference = logits_of(50, 5, 1)
    found = summed(reference, reference, None, 16).accuracy()
    assert found == accuracy_from_logits(reference, reference, None)
    assert (found.top1, found.agreement, found.sqnr_db) == (None, 1.0, None)


def test_logits_without_length_have_no_cosine() -> None:
    reference = logits_of(20, 5, 1)
    logits = reference.copy()
    logits[3] = 0
    assert summed(logits, reference, None, 8).accuracy().cosine is None
    assert accuracy_from_logits(logits, reference, None).cosine is None


def test_the_reference_begins_anew_after_one_that_fell_out() -> None:
    kept = ReferenceLogits()
    kept.append(logits_of(9, 4, 1))
    kept.clear()
    kept.append(logits_of(5, 3, 2))
    np.testing.assert_array_equal(kept.rows(1, 5), logits_of(5, 3, 2)[1:])
    kept.close()
