"""The guard returns as few layers as the budget needs, the most sensitive first, and says what each costs."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import pytest
from numpy.typing import NDArray

from alexnet_deploy.errors import AccuracyError, InputError
from alexnet_deploy.precision.guard import guarded

LAYERS = ["a", "b", "c"]
LABELS = np.zeros(100, np.int64)
# Images that each layer in INT8 gets wrong, and the noise that it brings into the logits of all.
WRONG, NOISE = {"a": range(2), "b": range(10, 30), "c": range(0)}, {"a": 0.1, "b": 0.5, "c": 0.0}


def evaluate(keep_float: Collection[str]) -> NDArray[np.float32]:
    logits = np.zeros((100, 2), np.float32)
    logits[:, 0] = 4
    for layer in set(LAYERS) - set(keep_float):
        logits[:, 0] -= NOISE[layer]
        logits[list(WRONG[layer]), 1] = 9
    return logits


def test_nothing_goes_back_where_the_budget_holds() -> None:
    found = guarded(LAYERS, evaluate, LABELS, 0.25)
    assert (found.keep_float, found.steps, found.sensitivities) == ((), (0.22,), ())
    assert (found.accuracy.lost, found.accuracy.won, found.images) == (22, 0, 100)


def test_the_most_sensitive_goes_back_first_and_no_more_than_needed() -> None:
    found = guarded(LAYERS, evaluate, LABELS, 0.02)
    assert found.keep_float == ("b",)
    assert found.steps == (0.22, 0.02) and found.drop == 0.02
    assert [row.layer for row in found.sensitivities] == ["b", "a", "c"]
    assert found.sensitivities[-1].accuracy.sqnr_db is None


def test_a_budget_of_nothing_takes_every_layer_that_costs() -> None:
    assert guarded(LAYERS, evaluate, LABELS, 0.0).keep_float == ("b", "a")


def test_without_labels_what_fp32_says_is_the_truth() -> None:
    found = guarded(LAYERS, evaluate, None, 0.02)
    assert (found.keep_float, found.accuracy.top1) == (("b",), 0.98)


def test_the_document_is_plain_values() -> None:
    values = guarded(LAYERS, evaluate, LABELS, 0.02).to_json()
    assert values["keep_float"] == ["b"] and values["sensitivities"][0]["layer"] == "b"
    assert values["flips"]["lost"] == 2


@pytest.mark.parametrize("budget", [-0.01, 1.5])
def test_a_budget_that_cannot_be_is_refused(budget: float) -> None:
    with pytest.raises(InputError, match="budget"):
        guarded(LAYERS, evaluate, LABELS, budget)


def test_an_evaluation_that_loses_without_int8_is_an_error() -> None:
    calls = iter(range(100))

    def wrong(keep_float: Collection[str]) -> NDArray[np.float32]:
        logits = evaluate(LAYERS)
        if next(calls):
            logits[:50, 1] = 9
        return logits

    with pytest.raises(AccuracyError, match="every layer in float"):
        guarded(LAYERS, wrong, LABELS, 0.1)
