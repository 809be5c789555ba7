"""The state of a training run on disk: weights, optimizer and position, in safetensors.

Nothing random is stored: the order of the images, the mirrored ones and the dropout masks are drawn from the
seed and the position, so a resumed run repeats what the uninterrupted one would have done. Nor is anything stored of
how many processes trained: all of them hold the same weights, the first one writes, and any number may go on.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from alexnet_deploy.errors import InputError
from alexnet_deploy.files import write_bytes
from alexnet_deploy.limits import json_from_text

if TYPE_CHECKING:
    from alexnet_deploy.network import AlexNet
    from alexnet_deploy.training.ranks import Ranks

_KEY = "alexnet_deploy_training"


def save_state(path: Path, network: AlexNet, optimizer: torch.optim.Optimizer, position: dict[str, Any]) -> None:
    """Writes everything that the next step depends on."""
    from safetensors.torch import save

    tensors = {f"network.{name}": tensor.contiguous() for name, tensor in network.state_dict().items()}
    for index, values in optimizer.state_dict()["state"].items():
        for name, value in values.items():
            tensors[f"optimizer.{index}.{name}"] = torch.as_tensor(value).contiguous()
    write_bytes(path, save(tensors, {_KEY: json.dumps(position)}))


def launchers_of(path: Path) -> frozenset[str]:
    """Which torchruns started the processes of the state that lies here; none where no state can be read."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            return frozenset(_launchers_in(json_from_text(file.metadata()[_KEY])))
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError):
        return frozenset()


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


def load_state(
    path: Path, network: AlexNet, optimizer: torch.optim.Optimizer, fingerprint: str, ranks: Ranks | None = None
) -> dict[str, Any]:
    """Restores what `save_state` wrote and returns the position; with `ranks`, the first one reads for all.

    Raises:
        InputError: There is no such state, it cannot be read, or it belongs to a run with other options.
    """
    if ranks is None:
        position, tensors = _of_this_run(path, fingerprint)
    else:
        position, tensors = {}, {}
        with ranks.together():
            if ranks.first:
                position, tensors = _of_this_run(path, fingerprint)
        position, tensors = ranks.from_first(position, tensors)
    try:
        _restore(network, optimizer, tensors)
    except (KeyError, IndexError, TypeError, ValueError, RuntimeError) as exc:
        raise InputError(
            f"the run at {path} does not fit its own options: it is damaged",
            got=str(exc).strip().split("\n")[-1].strip(),
            remedy="leave out --resume to start anew",
        ) from exc
    return position


def _of_this_run(path: Path, fingerprint: str) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    position, tensors = _read(path)
    if position["fingerprint"] != fingerprint:
        raise InputError(
            f"the run at {path} was started with other options",
            got=f"fingerprint {fingerprint}",
            expected=position["fingerprint"],
            remedy="give the options it was started with, or leave out --resume to start anew",
        )
    return position, tensors


def _is_position(values: Any) -> bool:
    return (
        isinstance(values, dict)
        and isinstance(values.get("fingerprint"), str)
        and isinstance(values.get("step"), int)
        and values["step"] >= 0
        and isinstance(values.get("validation_top1"), float | None)
    )


def _launchers_in(position: dict[str, Any]) -> list[str]:
    # States of earlier versions say nothing of them.
    return [one for one in position.get("launchers", []) if isinstance(one, str)]


def _restore(network: AlexNet, optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]) -> None:
    network.load_state_dict(_weights_of(tensors))
    state: dict[int, dict[str, torch.Tensor]] = {}
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".", 2)
            parameter = parameters[int(index)]
            if tensor.dim() and tensor.shape != parameter.shape:
                raise ValueError(f"{name} has the shape {tuple(tensor.shape)}, not {tuple(parameter.shape)}")
            if tensor.shape == parameter.shape:
                # Fused optimizers walk over memory, not over elements: the strides must be the parameter's.
                tensor = torch.empty_like(parameter).copy_(tensor)
            state.setdefault(int(index), {})[key] = tensor
    if len({frozenset(held) for held in state.values()}) > 1 or len(state) not in (0, len(parameters)):
        raise ValueError("the optimizer's state is not whole")
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _read(path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            position: dict[str, Any] = json_from_text(file.metadata()[_KEY])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - safe_open is no mapping
        if not _is_position(position):
            raise ValueError("its position is none")
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as exc:
        raise InputError(
            f"there is no run to resume at {path}", got=exc, remedy="leave out --resume to start anew"
        ) from exc
    return position, tensors
