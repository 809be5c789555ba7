"""What a worker sends arrives as it was: arrays to the last bit, errors as what they are."""

from __future__ import annotations

import numpy as np
import pytest

from alexnet_deploy.errors import AlexnetDeployError, GraphError, ImageError, InputError, SessionError
from alexnet_deploy.scale.answers import received, sent, sent_error, unpacked
from alexnet_deploy.scale.chunks import Arrays
from alexnet_deploy.scale.jobs import packed


def test_arrays_arrive_to_the_last_bit() -> None:
    arrays: Arrays = {
        "a": np.asarray([[1.5, -0.0], [np.nan, np.inf]], np.float32),
        "b/c": np.arange(5, dtype=np.int64),
        "none": np.zeros((0, 3), np.float64),
        "text": packed(["é", {"x": None}]),
    }
    found = received(sent(arrays))
    assert set(found) == set(arrays)
    for name, array in arrays.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        assert found[name].tobytes() == array.tobytes()
    assert unpacked(found["text"]) == ["é", {"x": None}]


@pytest.mark.parametrize("kind", [ImageError, GraphError, InputError])
def test_an_error_of_ours_arrives_as_itself(kind: type[AlexnetDeployError]) -> None:
    error = kind("the problem", got=ValueError("what"), expected="more", remedy="less")
    with pytest.raises(kind) as caught:
        received(sent_error(error, "these images"))
    assert type(caught.value) is kind and str(caught.value) == str(error)
    assert caught.value.exit_code == error.exit_code


def test_any_other_error_says_what_failed_on_what() -> None:
    with pytest.raises(SessionError, match="failed on these images") as caught:
        received(sent_error(KeyError("x"), "these images"))
    assert caught.value.got == "KeyError: 'x'"
