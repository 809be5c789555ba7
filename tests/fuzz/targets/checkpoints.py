"""Checkpoints: our own, PyTorch's, and the state of a training run."""

from __future__ import annotations

import copy
import io
import json
import pickle
import zipfile
from pathlib import Path
from random import Random
from typing import Any

import torch
import zstandard
from safetensors.torch import save

from alexnet_deploy.network import AlexNet
from alexnet_deploy.training.state import load_state, save_state
from alexnet_deploy.variants import VARIANTS
from alexnet_deploy.weights import load_model, save_checkpoint
from tests.fuzz.mutate import INTEGERS, bytes_of, text_of
from tests.fuzz.target import Target, require
from tests.fuzz.targets.networks import INFO, SPEC, tiny_network

# Files that do not say how large their images are are taken to be of the variant's usual size.
USUAL = VARIANTS["paper"].image_size
_CLAIMED = (0, 1, 1000, 2**31, 3_900_000_000, 4_000_000_001, 2**40, 2**63, 2**64 - 1)


def safetensors_of(random: Random, data: bytes) -> bytes:
    """A safetensors file whose bytes, header or description in the header were changed."""
    size = int.from_bytes(data[:8], "little")
    header, body = json.loads(data[8 : 8 + size]), data[8 + size :]
    match random.randrange(5):
        case 0:
            return bytes_of(random, data)
        case 1:
            text = text_of(random, header)
        case 2:
            key = random.choice([name for name in header if name != "__metadata__"])
            entry = header[key]
            change = random.choice(("dtype", "shape", "data_offsets"))
            if change == "dtype":
                entry["dtype"] = random.choice(("F64", "F16", "BF16", "I64", "U8", "BOOL", "F8_E4M3", "X"))
            else:
                entry[change] = [random.choice(INTEGERS) for _ in range(random.choice((0, 1, 2, 4)))]
            text = json.dumps(header).encode()
        case 3:
            # Weights that are no numbers, or too many of them.
            return data[: 8 + size] + bytes_of(random, body)
        case _:
            metadata = header["__metadata__"]
            key = random.choice(list(metadata))
            described = json.loads(metadata[key]) if metadata[key].startswith("{") else metadata
            metadata[key] = text_of(random, described).decode(errors="replace")
            text = json.dumps(header).encode()
    length = random.choice((len(text), len(text), len(text), random.choice(INTEGERS) % 2**64))
    return length.to_bytes(8, "little") + text + body


def _compressed(random: Random, data: bytes) -> bytes:
    """zstd around it, and sometimes a frame that claims to unpack to something else."""
    packed = bytearray(zstandard.ZstdCompressor(level=1, write_content_size=True).compress(data))
    match random.randrange(4):
        case 0:
            return bytes_of(random, bytes(packed))
        case 1:
            # A frame with eight bytes for the size of its content, which is one segment.
            claimed = random.choice((*_CLAIMED, len(data) + 1, len(data) - 1))
            return b"\x28\xb5\x2f\xfd\xe0" + claimed.to_bytes(8, "little") + bytes(packed[9:])
        case 2:
            bomb = zstandard.ZstdCompressor(level=1).compress(bytes(50_000_000))
            return bytes(packed) + bomb if random.randrange(2) else bomb
        case _:
            return bytes(packed)


def _checkpoint_seeds() -> dict[str, bytes]:
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as folder:
        path = Path(folder) / "x.safetensors"
        save_checkpoint(tiny_network(), INFO, path)
        plain = path.read_bytes()
        pruned = copy.deepcopy(tiny_network())
        with torch.no_grad():
            for parameter in pruned.parameters():
                parameter.mul_(torch.rand(parameter.shape, generator=torch.Generator().manual_seed(1)) < 0.1)
        save_checkpoint(pruned, INFO, path.with_suffix(".safetensors.zst"))
        sparse = zstandard.ZstdDecompressor().decompress(path.with_suffix(".safetensors.zst").read_bytes())
    foreign = save({name: tensor.half() for name, tensor in tiny_network(USUAL).state_dict().items()}, {"format": "pt"})
    return {"plain": plain, "sparse": sparse, "foreign": foreign}


def _require_whole(network: AlexNet) -> None:
    """What was opened can be run: every weight is a number, of the shape that the network says."""
    for name, tensor in network.state_dict().items():
        require(tensor.dtype == torch.float32 and torch.isfinite(tensor).all(), f"{name} is not finite")
    with torch.inference_mode():
        side = network.spec.image_size
        logits = network(torch.zeros(1, 3, side, side))
    require(logits.shape == (1, network.spec.classes), f"logits of shape {tuple(logits.shape)}")


def _open(path: Path, variant: str | None) -> None:
    network, info = load_model(str(path), variant=variant)
    require(info.network == network.spec, "the description is of another network")
    require(not info.labels or len(info.labels) == network.spec.classes, "labels that are not the classes")
    _require_whole(network)


def _checkpoint(seeds: dict[str, bytes], random: Random, folder: Path) -> None:
    data = safetensors_of(random, seeds[random.choice(list(seeds))])
    packed = random.randrange(3) == 0
    path = folder / ("x.safetensors.zst" if packed else "x.safetensors")
    path.write_bytes(_compressed(random, data) if packed else data)
    _open(path, random.choice((None, "paper", "paper", "bvlc")))


CHECKPOINTS = Target(
    "checkpoint",
    "safetensors files, plain and zstd: bytes, header, offsets, description; load_model gives finite weights that run",
    _checkpoint_seeds,
    _checkpoint,
    900,
)


def _torch_seeds() -> dict[str, torch.Tensor]:
    return dict(tiny_network(USUAL).state_dict())


class _Program:
    """What a pickle may do to whoever opens it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("a checkpoint was run",)


def _odd_tensor(random: Random, tensor: torch.Tensor) -> Any:
    kinds = (
        lambda: tensor.to(random.choice((torch.float64, torch.bfloat16, torch.int64, torch.bool, torch.complex64))),
        lambda: tensor.to_sparse(),
        lambda: tensor.to("meta"),
        lambda: torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8),
        lambda: tensor.flatten()[: random.randrange(1, 9)],
        lambda: tensor.unsqueeze(0),
        lambda: torch.full_like(tensor, random.choice((float("nan"), float("inf"), 1e38, 0.0))),
        lambda: torch.empty(0),
        lambda: torch.tensor(1.0),
        lambda: tensor.expand(3, *tensor.shape),
        lambda: torch.nn.Parameter(tensor),
        lambda: tensor.tolist(),
        lambda: None,
        lambda: "text",
    )
    return random.choice(kinds)()


def _torch_bytes(random: Random, seeds: dict[str, torch.Tensor]) -> bytes:
    import warnings

    state: dict[Any, Any] = dict(seeds)
    if random.randrange(3):
        for _ in range(random.choice((1, 1, 2))):
            key = random.choice(list(state))
            with warnings.catch_warnings():
                # Of making such a tensor, which is not ours to do.
                warnings.simplefilter("ignore")
                match random.randrange(6):
                    case 0:
                        del state[key]
                    case 1:
                        state[random.choice((f"module.{key}", "x", 7, "", key + ".extra", "features.0.weight"))] = (
                            state[key]
                        )
                    case _:
                        state[key] = _odd_tensor(random, seeds.get(key, torch.zeros(2)))
    whole: Any = random.choice((state, state, {"state_dict": state}, [state], {"state_dict": 3}, {"model": state}))
    buffer = io.BytesIO()
    torch.save(whole, buffer, _use_new_zipfile_serialization=random.randrange(4) > 0)
    return buffer.getvalue()


def _zip_of(random: Random, data: bytes) -> bytes:
    """An archive with changed members and the check sums that belong to them."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    place = random.randrange(len(members))
    places = [index for index, (name, _) in enumerate(members) if name.endswith("data.pkl")]
    place = random.choice((place, *places))
    name, content = members[place]
    match random.randrange(5):
        case 0:
            del members[place]
        case 1:
            members[place] = (random.choice(("../x", "/x", name.replace("data", "date"), "archive/data/999")), content)
        case 2:
            members[place] = (name, pickle.dumps(_Program()))
        case _:
            members[place] = (name, bytes_of(random, content))
    buffer = io.BytesIO()
    kind = random.choice((zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    with zipfile.ZipFile(buffer, "w", kind) as archive:
        for member, content in members:
            archive.writestr(member, content)
    return buffer.getvalue()


def _torch_file(seeds: dict[str, torch.Tensor], random: Random, folder: Path) -> None:
    data = _torch_bytes(random, seeds)
    match random.randrange(4):
        case 0:
            data = bytes_of(random, data)
        case 1 if data.startswith(b"PK"):
            data = _zip_of(random, data)
        case _:
            pass
    path = folder / random.choice(("x.pt", "x.pth"))
    path.write_bytes(data)
    _open(path, random.choice((None, "paper", "paper", "paper", "unpadded")))


TORCH_FILES = Target(
    "torch-file",
    "PyTorch files of both forms: bytes, zip members, pickles, tensors of other kinds; as for checkpoints",
    _torch_seeds,
    _torch_file,
    500,
)


def _optimizer(network: AlexNet) -> torch.optim.Optimizer:
    return torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)


def _state_seeds() -> bytes:
    from tempfile import TemporaryDirectory

    network = copy.deepcopy(tiny_network())
    optimizer = _optimizer(network)
    network(torch.ones(1, 3, 63, 63)).sum().backward()
    optimizer.step()
    with TemporaryDirectory() as folder:
        path = Path(folder) / "run.training-state"
        save_state(path, network, optimizer, {"fingerprint": "f" * 16, "step": 3, "epoch": 1, "best": 0.5})
        return path.read_bytes()


def _training_state(seed: bytes, random: Random, folder: Path) -> None:
    path = folder / "run.training-state"
    path.write_bytes(safetensors_of(random, seed))
    network = AlexNet(SPEC)
    optimizer = _optimizer(network)
    position = load_state(path, network, optimizer, "f" * 16)
    require(position["fingerprint"] == "f" * 16, "a state of other options")
    network(torch.ones(1, 3, 63, 63)).sum().backward()
    optimizer.step()


TRAINING_STATES = Target(
    "training-state",
    "the state of a training run: bytes, header, offsets, position; load_state gives what the next step can be made of",
    _state_seeds,
    _training_state,
    300,
)
