"""The guard gives back as few layers as the budget needs, the most sensitive first, and says what each cost."""

from __future__ import annotations

import io
import json
from collections.abc import Collection, Mapping

import numpy as np
import pytest
from numpy.typing import NDArray

from alexnet_deploy.errors import AccuracyError, InputError
from alexnet_deploy.precision.guard import guarded
from alexnet_deploy.progress import Voice

IMAGES, CLASSES = 20, 4
LAYERS = ["conv1", "conv2", "fc3"]


def reference() -> NDArray[np.float32]:
    """Image `i` is of class `i % CLASSES`, and FP32 says so."""
    logits = np.zeros((IMAGES, CLASSES), np.float32)
    logits[np.arange(IMAGES), np.arange(IMAGES) % CLASSES] = 4
    return logits


class Fake:
    """A network in which each layer in INT8 turns so many images wrong, one layer's after another's, with some noise.

    Attributes:
        asked: The layers in float of every evaluation, in order.
    """

    def __init__(self, wrong: Mapping[str, int], noise: Mapping[str, float] | None = None) -> None:
        self.wrong, self.noise = wrong, noise or {}
        self.asked: list[list[str]] = []

    def __call__(self, keep_float: Collection[str]) -> NDArray[np.float32]:
        self.asked.append(list(keep_float))
        logits, at = reference(), 0
        for layer, count in self.wrong.items():
            if layer not in keep_float:
                logits[at : at + count] = np.roll(logits[at : at + count], 1, axis=1)
                logits += np.float32(self.noise.get(layer, 0.0))
            at += count
        return logits


def labels() -> NDArray[np.int64]:
    return np.arange(IMAGES, dtype=np.int64) % CLASSES


def test_nothing_goes_back_where_the_budget_holds() -> None:
    fake = Fake({"conv1": 1, "conv2": 1, "fc3": 0})
    found = guarded(LAYERS, fake, labels(), 0.1)
    assert (found.keep_float, found.drop, found.steps, found.sensitivities) == ((), 0.1, (0.1,), ())
    assert (found.accuracy.lost, found.accuracy.won, found.images, found.max_drop) == (2, 0, IMAGES, 0.1)
    assert fake.asked == [LAYERS, []]


def test_a_budget_of_nothing_holds_where_nothing_is_lost() -> None:
    found = guarded(LAYERS, Fake({}), labels(), 0.0)
    assert (found.keep_float, found.steps) == ((), (0.0,))
    assert found.accuracy.sqnr_db is None


@pytest.mark.parametrize(
    ("max_drop", "keep", "steps"),
    [
        (0.5, (), (0.5,)),
        (0.49, ("conv2",), (0.5, 0.2)),
        (0.2, ("conv2",), (0.5, 0.2)),
        (0.19, ("conv2", "fc3"), (0.5, 0.2, 0.05)),
        (0.0, ("conv2", "fc3", "conv1"), (0.5, 0.2, 0.05, 0.0)),
    ],
)
def test_as_few_layers_as_needed_go_back_and_the_most_sensitive_first(
    max_drop: float, keep: tuple[str, ...], steps: tuple[float, ...]
) -> None:
    fake = Fake({"conv1": 1, "conv2": 6, "fc3": 3})
    found = guarded(LAYERS, fake, labels(), max_drop)
    assert found.keep_float == keep
    assert found.steps == steps and found.drop == steps[-1] <= max_drop
    assert fake.asked[-1] == list(keep)
    if keep:
        assert [row.layer for row in found.sensitivities] == ["conv2", "fc3", "conv1"]
        assert [row.accuracy.lost for row in found.sensitivities] == [6, 3, 1]


def test_sensitivity_is_measured_once_with_all_other_layers_in_float() -> None:
    fake = Fake({"conv1": 2, "conv2": 2, "fc3": 2})
    found = guarded(LAYERS, fake, labels(), 0.0)
    assert fake.asked[2:5] == [["conv2", "fc3"], ["conv1", "fc3"], ["conv1", "conv2"]]
    assert len(fake.asked) == 2 + 3 + len(found.keep_float)


def test_sensitivity_is_the_noise_and_not_the_images_lost() -> None:
    # The first layer flips more images, the second brings more noise.
    fake = Fake({"conv1": 3, "conv2": 1, "fc3": 0}, noise={"conv2": 30.0, "fc3": 0.5})
    found = guarded(LAYERS, fake, labels(), 0.16)
    assert [row.layer for row in found.sensitivities] == ["conv2", "conv1", "fc3"]
    assert found.keep_float == ("conv2",)
    ratios = [row.accuracy.sqnr_db for row in found.sensitivities]
    assert ratios[0] is not None and ratios[1] is not None and ratios[0] < ratios[1]


def test_a_layer_without_any_noise_is_the_last_to_go_back() -> None:
    fake = Fake({"conv1": 0, "conv2": 1, "fc3": 5})
    found = guarded(LAYERS, fake, labels(), 0.0)
    assert [row.layer for row in found.sensitivities] == ["fc3", "conv2", "conv1"]
    assert found.sensitivities[-1].accuracy.sqnr_db is None
    assert found.keep_float == ("fc3", "conv2")


def test_without_labels_what_fp32_says_is_the_truth() -> None:
    assert guarded(LAYERS, Fake({"conv1": 4}), None, 0.1).steps == (0.2, 0.0)
    # Against labels that FP32 misses everywhere, the same flips win or change nothing.
    wrong = (labels() + 1) % CLASSES
    found = guarded(LAYERS, Fake({"conv1": 4}), wrong, 0.0)
    assert (found.keep_float, found.drop, found.accuracy.won) == ((), -0.2, 4)


def test_images_won_make_up_for_images_lost() -> None:
    truth = labels()
    truth[:2] = (truth[:2] + 1) % CLASSES
    found = guarded(LAYERS, Fake({"conv1": 5}), truth, 0.05)
    assert (found.accuracy.lost, found.accuracy.won, found.drop) == (3, 2, 0.05)
    assert found.keep_float == ()


@pytest.mark.parametrize("budget", [-0.01, 1.01, float("nan")])
def test_a_budget_that_is_no_fraction_is_refused_before_anything_runs(budget: float) -> None:
    fake = Fake({})
    with pytest.raises(InputError, match="budget") as caught:
        guarded(LAYERS, fake, labels(), budget)
    assert caught.value.expected and fake.asked == []


def test_a_budget_that_fails_with_everything_in_float_is_an_error() -> None:
    calls = 0

    def unsteady(keep_float: Collection[str]) -> NDArray[np.float32]:
        nonlocal calls
        calls += 1
        logits = reference()
        return logits if calls == 1 else np.roll(logits, 1, axis=1)

    with pytest.raises(AccuracyError, match="every layer in float") as caught:
        guarded(LAYERS, unsteady, labels(), 0.25)
    assert caught.value.got == "100.00 points lost" and caught.value.expected == "at most 25.00"
    assert caught.value.exit_code == 3
    assert calls == 2 + 3 + 3


def test_each_layer_that_goes_back_is_said() -> None:
    stream = io.StringIO()
    guarded(LAYERS, Fake({"conv1": 1, "conv2": 6}), labels(), 0.01, voice=Voice(stream=stream))
    text = stream.getvalue()
    assert text.index("conv2 back in float: 5.00 points") < text.index("conv1 back in float: 0.00 points")


def test_what_came_out_is_plain_json() -> None:
    found = guarded(LAYERS, Fake({"conv1": 0, "conv2": 6, "fc3": 1}), labels(), 0.05)
    values = json.loads(json.dumps(found.to_json()))
    assert (values["keep_float"], values["steps"], values["drop"]) == (["conv2"], [0.35, 0.05], 0.05)
    assert values["flips"]["lost"] == 1 and values["images"] == IMAGES and values["max_drop"] == 0.05
    assert [row["layer"] for row in values["sensitivities"]] == ["conv2", "fc3", "conv1"]
    assert values["sensitivities"][2]["sqnr_db"] is None
