"""A file of weights is numbers: nothing of it runs, and what is no plain state dict is refused."""

from __future__ import annotations

import io
import os
import pickle
import struct
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from alexnet_deploy.errors import AlexnetDeployError, InputError, WeightsError
from alexnet_deploy.weights import load_model, read_checkpoint
from tests.conftest import small_info, small_network
from tests.security import hostile
from tests.security.hostile import written


class Runs:
    """Unpickled, it makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def in_a_tar(data: bytes) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as archive:
        for name in ("../escaped", "/tmp/escaped", "storages", "tensors", "pickle"):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return target.getvalue()


def programs(folder: Path) -> dict[str, bytes]:
    runs = Runs(folder / "ran")
    state = dict(small_network().state_dict())
    return {
        "pickle": pickle.dumps(runs),
        "zip": hostile.torch_file(state | {"fc8.bias": runs}),
        "legacy": hostile.torch_file(state | {"fc8.bias": runs}, _use_new_zipfile_serialization=False),
        "module": hostile.torch_file(nn.Linear(2, 2)),
        "tar": in_a_tar(pickle.dumps(runs)),
        "torchscript": hostile.torch_file({"a": torch.nn.functional.relu}),
    }


@pytest.mark.parametrize("suffix", [".pt", ".pth"])
@pytest.mark.parametrize("kind", ["pickle", "zip", "legacy", "module", "tar", "torchscript"])
def test_a_checkpoint_that_is_a_program_does_not_run(kind: str, suffix: str, tmp_path: Path) -> None:
    path = written(tmp_path / f"x{suffix}", programs(tmp_path)[kind])
    with pytest.raises(InputError, match="cannot be read as weights") as caught:
        load_model(str(path))
    assert "state dict" in str(caught.value)
    assert sorted(each.name for each in tmp_path.iterdir()) == [path.name]
    assert not Path("/tmp/escaped").exists()


def test_the_attack_would_run_in_an_open_loader(tmp_path: Path) -> None:
    """Else the test above could not fail."""
    pickle.loads(programs(tmp_path)["pickle"])  # noqa: S301, TID251 - the attack itself
    assert (tmp_path / "ran").is_dir()


def test_a_state_dict_is_opened_in_both_formats(tmp_path: Path) -> None:
    state = small_network().state_dict()
    for name, options in (("a.pt", {}), ("b.pth", {"_use_new_zipfile_serialization": False})):
        path = written(tmp_path / name, hostile.torch_file(dict(state), **options))
        with pytest.raises(WeightsError, match="cannot be told") as caught:
            # A small network is of no variant's default size; that its shapes were read is enough.
            load_model(str(path))
        assert "conv1" in str(caught.value.got)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (lambda whole: hostile.repacked(whole), "is compressed"),
        (lambda whole: hostile.repacked(whole, compress=False, claim=10**9), "bytes in a file of"),
        (lambda _: hostile.archive_of_many(50_000), "50,000 members"),
        (lambda whole: whole[:-30], "state dict|not a zip"),
    ],
    ids=["compressed", "claims a gigabyte", "too many members", "cut short"],
)
def test_an_archive_that_torch_does_not_write_is_refused(data: Any, words: str, tmp_path: Path) -> None:
    path = written(tmp_path / "x.pt", data(hostile.torch_file({"w": torch.zeros(10_000)})))
    with pytest.raises(InputError, match=words):
        load_model(str(path))


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(1).expand(10, 512),
        torch.zeros(10, 512).to_sparse(),
        torch.zeros(10, 512, dtype=torch.int32),
        torch.zeros(10, 512, dtype=torch.complex64),
        torch.zeros(10, 512, device="meta"),
    ],
    ids=["repeated", "sparse", "integers", "complex", "without numbers"],
)
def test_a_weight_that_is_not_stored_number_by_number_is_refused(tensor: torch.Tensor) -> None:
    from alexnet_deploy.weights_guard import require_stored

    require_stored("x", "w", torch.zeros(10, 512))
    require_stored("x", "w", torch.zeros(512, 10).T.half())
    with pytest.raises(WeightsError, match="not stored number by number"):
        require_stored("x", "w", tensor)


@pytest.mark.parametrize("shape", [[-1, -4], [-2, 2], [1 << 40, 1 << 40], [2**31, 4]])
def test_a_sparse_shape_that_cannot_be_is_refused(shape: list[int], tmp_path: Path) -> None:
    tensors = {"w.mask": torch.zeros(1, dtype=torch.uint8), "w.nonzero": torch.zeros(0)}
    path = written(tmp_path / "x.safetensors", hostile.safetensors(tensors, sparse={"w": shape}))
    with pytest.raises(WeightsError, match=r"cannot be|too much|damaged"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    "described",
    [
        {"name": "x" * 1_001},
        {"labels": ["y" * 1_001] + ["z"] * 9},
        {"network": None, "labels": ["z"] * 1_000_001},
    ],
    ids=["a long name", "a long label", "a million labels"],
)
def test_a_description_of_absurd_size_is_refused(described: dict[str, Any], tmp_path: Path) -> None:
    model = small_info().to_json() | described
    path = written(tmp_path / "x.safetensors", hostile.safetensors({}, model))
    with pytest.raises(InputError, match="asks for too much"):
        read_checkpoint(path)


@pytest.mark.parametrize("length", [0, 7, 10**9, 2**63])
def test_a_header_that_claims_another_length_is_refused(length: int, tmp_path: Path) -> None:
    data = struct.pack("<Q", length) + b"{}" + bytes(100)
    for name, content in (("x.safetensors", data), ("x.safetensors.zst", hostile.zstd_that_claims(110, data))):
        with pytest.raises(InputError, match="cannot be read as a checkpoint"):
            load_model(str(written(tmp_path / name, content)))


def test_a_pipe_is_no_checkpoint(tmp_path: Path) -> None:
    for suffix in (".safetensors", ".safetensors.zst", ".pt"):
        os.mkfifo(tmp_path / f"x{suffix}")
        with pytest.raises(AlexnetDeployError, match=r"no model|is no file"):
            load_model(str(tmp_path / f"x{suffix}"))
