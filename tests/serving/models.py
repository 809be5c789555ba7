"""What the tests of the server share: a model of eight pixels, and bodies of requests for it."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alexnet_deploy.serving.model import ServedModel
from alexnet_deploy.specs import Preprocessing, Resize

SIDE, CLASSES = 8, 10
LABELS = tuple(f"class {i}" for i in range(CLASSES))


def model(**changes: Any) -> ServedModel:
    """As `FakeSession` is."""
    values: dict[str, Any] = {
        "name": "fake",
        "platform": "fake/fp32",
        "image_shape": (3, SIDE, SIDE),
        "classes": CLASSES,
        "labels": LABELS,
        "input": "input",
        "output": "logits",
        "preprocessing": Preprocessing(image_size=SIDE, resize_size=SIDE, resize=Resize.STRETCH),
    }
    return ServedModel(**values | changes)


def images(count: int = 1, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(count, 3, SIDE, SIDE)).astype(np.float32)


def tensor(values: NDArray[np.float32], **changes: Any) -> dict[str, Any]:
    """An input in JSON."""
    entry: dict[str, Any] = {"name": "input", "shape": list(values.shape), "datatype": "FP32"}
    return entry | {"data": values.ravel().tolist()} | changes


def json_body(values: NDArray[np.float32], **changes: Any) -> bytes:
    return json.dumps({"inputs": [tensor(values)]} | changes).encode()


def binary_body(values: NDArray[np.float32], **changes: Any) -> tuple[bytes, str]:
    """A body with its tensor in binary, and the length of its JSON."""
    data = values.tobytes()
    entry = tensor(values, parameters={"binary_data_size": len(data)})
    del entry["data"]
    head = json.dumps({"inputs": [entry]} | changes).encode()
    return head + data, str(len(head))
