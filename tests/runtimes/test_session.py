"""Every session checks its batch once, gives one row an image, and closes; the fake one obeys the same rules."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from alexnet_deploy.errors import InputError, SessionError
from alexnet_deploy.runtimes.fake import FakeSession
from alexnet_deploy.runtimes.open import RUNTIMES, open_session
from alexnet_deploy.runtimes.session import Session, SessionSpec
from alexnet_deploy.specs import Precision


class Echo(Session):
    """Gives back what it is told to."""

    image_shape = (3, 2, 2)

    def __init__(self, outputs: NDArray[np.float32]) -> None:
        self.outputs, self.seen = outputs, list[NDArray[np.float32]]()

    def _run(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        self.seen.append(images)
        return self.outputs


GOOD = np.zeros((4, 3, 2, 2), np.float32)


@pytest.mark.parametrize(
    "images",
    [
        GOOD.astype(np.float64),
        GOOD.astype(np.float16),
        GOOD.astype(np.uint8),
        GOOD[0],
        GOOD[:, :1],
        GOOD[:, :, :1],
        GOOD.transpose(0, 2, 3, 1),
        GOOD[:0],
        GOOD[None],
    ],
    ids=["double", "half", "bytes", "no-batch", "one-channel", "one-row", "channels-last", "empty", "five-sides"],
)
def test_a_batch_that_does_not_fit_is_refused_before_it_runs(images: NDArray[np.float32]) -> None:
    session = Echo(np.zeros((4, 10), np.float32))
    with pytest.raises(InputError, match="does not fit the model") as caught:
        session.run(images)
    assert str(images.shape) in str(caught.value.got) and "(N, 3, 2, 2) float32" in str(caught.value.expected)
    assert session.seen == []


@pytest.mark.parametrize("shape", [(4,), (3, 10), (5, 10), (4, 10, 1), (40,)])
def test_outputs_that_are_not_one_row_an_image_are_an_error(shape: tuple[int, ...]) -> None:
    with pytest.raises(SessionError, match="no row an image") as caught:
        Echo(np.zeros(shape, np.float32)).run(GOOD)
    assert "4 images" in str(caught.value.got)


def test_runtimes_get_contiguous_images() -> None:
    session = Echo(np.zeros((4, 10), np.float32))
    session.run(np.asfortranarray(np.random.default_rng(0).random((4, 3, 2, 2), np.float32)))
    assert session.seen[0].flags.c_contiguous


def test_outputs_pass_through() -> None:
    outputs = np.arange(40, dtype=np.float32).reshape(4, 10)
    assert Echo(outputs).run(GOOD) is outputs


def test_the_fake_session_gives_the_mean_times_the_class() -> None:
    session = FakeSession((3, 2, 2), 3)
    images = np.stack([np.full((3, 2, 2), 2.0), np.full((3, 2, 2), -1.0)]).astype(np.float32)
    np.testing.assert_array_equal(session.run(images), [[0, 2, 4], [0, -1, -2]])


def test_the_fake_session_ticks_and_fails_when_it_is_told_to() -> None:
    ticks: list[None] = []
    session = FakeSession((3, 2, 2), tick=lambda: ticks.append(None), fails_at=2)
    session.run(GOOD)
    session.run(GOOD)
    with pytest.raises(SessionError):
        session.run(GOOD)
    assert (session.runs, len(ticks)) == (2, 2)


def test_a_session_closes_at_the_end_of_its_block_whatever_happens() -> None:
    session = FakeSession((3, 2, 2))
    with pytest.raises(SessionError), session:
        raise SessionError("something happened")
    assert session.closed


def test_an_unknown_runtime_is_refused_with_the_known_ones() -> None:
    spec = SessionSpec(runtime="tflite", precision=Precision.FP32, path=Path("x.onnx"), threads=1)
    with pytest.raises(InputError, match="no such runtime") as caught:
        open_session(spec)
    assert caught.value.got == "tflite" and str(caught.value.expected) == ", ".join(RUNTIMES)


def test_a_spec_names_itself_as_the_keys_of_a_bench_do() -> None:
    assert SessionSpec(runtime="openvino", precision=Precision.INT8, path=Path(), threads=1).name == "openvino/int8"
