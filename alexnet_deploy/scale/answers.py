"""What a worker sends back: arrays as safetensors, or the error that it met, as bytes."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import safetensors.numpy

from alexnet_deploy import errors
from alexnet_deploy.errors import AlexnetDeployError, SessionError
from alexnet_deploy.limits import json_from_text
from alexnet_deploy.scale.chunks import Arrays
from alexnet_deploy.scale.jobs import packed

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_ERROR = "error"
_KINDS: dict[str, type[AlexnetDeployError]] = {
    name: kind for name, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, AlexnetDeployError)
}


def sent(arrays: Arrays) -> bytes:
    """Arrays on their way."""
    found: bytes = safetensors.numpy.save(arrays)
    return found


def sent_error(error: Exception, doing: str) -> bytes:
    """An error on its way: one of ours as it is, and a runtime's own as a `SessionError`.

    Args:
        error: What was raised.
        doing: What failed.
    """
    if not isinstance(error, AlexnetDeployError):
        error = SessionError(f"a worker failed on {doing}", got=f"{type(error).__name__}: {error}")
    texts = {name: _text(getattr(error, name)) for name in ("problem", "got", "expected", "remedy")}
    return sent({_ERROR: packed({"kind": type(error).__name__, **texts})})


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def received(data: bytes) -> Arrays:
    """What a worker sent.

    Raises:
        AlexnetDeployError: The one that it met.
    """
    arrays: Arrays = safetensors.numpy.load(data)
    if _ERROR not in arrays:
        return arrays
    said = unpacked(arrays[_ERROR])
    kind = _KINDS.get(said["kind"], SessionError)
    raise kind(said["problem"], got=said["got"], expected=said["expected"], remedy=said["remedy"])


def unpacked(array: NDArray[np.uint8]) -> Any:
    """Plain values out of an array that `packed` made."""
    return json_from_text(array.tobytes().decode())
