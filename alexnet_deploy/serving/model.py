"""What a client may know of the model: its names, its shapes, its labels."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from alexnet_deploy.runtimes.session import Session, SessionSpec
    from alexnet_deploy.specs import Preprocessing
    from alexnet_deploy.weights import ModelInfo

VERSION = "1"
# What may stand in a path as it is.
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    """One model with its session's shapes.

    Attributes:
        name: As it stands in paths.
        platform: Runtime and precision.
        image_shape: `(3, S, S)`.
        classes: Columns of the output.
        labels: Names of the classes; empty where they are not known.
        input: Name of the input, as our graphs have it.
        output: Name of the output: probabilities where the graph ends in a softmax, else logits.
        preprocessing: From an image to the input.
    """

    name: str
    platform: str
    image_shape: tuple[int, int, int]
    classes: int
    labels: tuple[str, ...]
    input: str
    output: str
    preprocessing: Preprocessing

    def metadata(self) -> dict[str, Any]:
        """As the protocol's `GET /v2/models/NAME` answers it."""
        return {
            "name": self.name,
            "versions": [VERSION],
            "platform": self.platform,
            "inputs": [{"name": self.input, "datatype": "FP32", "shape": [-1, *self.image_shape]}],
            "outputs": [{"name": self.output, "datatype": "FP32", "shape": [-1, self.classes]}],
        }


def model_from_session(session: Session, spec: SessionSpec, info: ModelInfo, name: str | None = None) -> ServedModel:
    """Runs one empty image to learn what the session gives.

    Raises:
        SessionError: The runtime failed.
        InputError: The model's preprocessing makes images of another size than the session takes.
    """
    import numpy as np

    # Not at the top: replicas need none of what these bring.
    from alexnet_deploy.errors import InputError
    from alexnet_deploy.export import LOGITS_NAME, PROBABILITIES_NAME
    from alexnet_deploy.graph import INPUT_NAME
    from alexnet_deploy.prediction import is_distribution

    _, height, width = session.image_shape
    if height != info.preprocessing.image_size or width != info.preprocessing.image_size:
        raise InputError(
            "the model's preprocessing does not fit the session",
            got=f"images of {info.preprocessing.image_size} pixels",
            expected=f"{height}x{width}",
        )
    row = session.run(np.zeros((1, *session.image_shape), np.float32))[0]
    labels = info.labels if len(info.labels) == len(row) else ()
    return ServedModel(
        name=name or _UNSAFE.sub("-", info.name).strip("-.") or "model",
        platform=spec.name,
        image_shape=session.image_shape,
        classes=len(row),
        labels=labels,
        input=INPUT_NAME,
        output=PROBABILITIES_NAME if is_distribution(row) else LOGITS_NAME,
        preprocessing=info.preprocessing,
    )
