"""The state of a training run on disk: weights, optimizer and position, in safetensors.

Nothing random is stored: the order of the images, the mirrored ones and the dropout masks are drawn from the
seed and the position, so a resumed run repeats what the uninterrupted one would have done.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from alexnet_deploy.errors import InputError
from alexnet_deploy.files import write_bytes

if TYPE_CHECKING:
    from alexnet_deploy.network import AlexNet

_KEY = "alexnet_deploy_training"


def save_state(path: Path, network: AlexNet, optimizer: torch.optim.Optimizer, position: dict[str, Any]) -> None:
    """Writes everything that the next step depends on."""
    from safetensors.torch import save

    tensors = {f"network.{name}": tensor.contiguous() for name, tensor in network.state_dict().items()}
    for index, values in optimizer.state_dict()["state"].items():
        for name, value in values.items():
            tensors[f"optimizer.{index}.{name}"] = torch.as_tensor(value).contiguous()
    write_bytes(path, save(tensors, {_KEY: json.dumps(position)}))


def load_weights(path: Path, network: AlexNet, fingerprint: str) -> int | None:
    """Restores the weights alone; returns the step that they are of, or None where they are another run's.

    Raises:
        InputError: There is no such state, or it cannot be read.
    """
    position, tensors = _read(path)
    if position["fingerprint"] != fingerprint:
        return None
    network.load_state_dict(_weights_of(tensors))
    return int(position["step"])


def _weights_of(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.removeprefix("network."): tensor for name, tensor in tensors.items() if name.startswith("network.")}


def load_state(path: Path, network: AlexNet, optimizer: torch.optim.Optimizer, fingerprint: str) -> dict[str, Any]:
    """Restores what `save_state` wrote and returns the position.

    Raises:
        InputError: There is no such state, it cannot be read, or it belongs to a run with other options.
    """
    position, tensors = _read(path)
    if position["fingerprint"] != fingerprint:
        raise InputError(
            f"the run at {path} was started with other options",
            got=f"fingerprint {fingerprint}",
            expected=position["fingerprint"],
            remedy="give the options it was started with, or leave out --resume to start anew",
        )
    network.load_state_dict(_weights_of(tensors))
    state: dict[int, dict[str, torch.Tensor]] = {}
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".", 2)
            parameter = parameters[int(index)]
            if tensor.shape == parameter.shape:
                # Fused optimizers walk over memory, not over elements: the strides must be the parameter's.
                tensor = torch.empty_like(parameter).copy_(tensor)
            state.setdefault(int(index), {})[key] = tensor
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    return position


def _read(path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            position: dict[str, Any] = json.loads(file.metadata()[_KEY])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - safe_open is no mapping
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as exc:
        raise InputError(
            f"there is no run to resume at {path}", got=exc, remedy="leave out --resume to start anew"
        ) from exc
    return position, tensors
