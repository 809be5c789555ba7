"""Files that ask for gigabytes are refused by name, in a process that does not have them."""

from __future__ import annotations

import json
import re
import zlib
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch

from tests.security import hostile
from tests.security.confined import Outcome, attacked
from tests.security.hostile import written

# More than any of these may take beside what is loaded; the file that is read, its objects and a message.
MOST_BYTES = 300_000_000


def _checkpoints(folder: Path) -> dict[str, tuple[str, Path, str]]:
    huge = [10**6, 10**6]
    short = {"w.mask": torch.zeros(8, dtype=torch.uint8), "w.nonzero": torch.zeros(0)}
    stretched = hostile.stretched_state()
    nothing = torch.zeros((2, 0), dtype=torch.int64), torch.zeros(0)
    sparse = torch.sparse_coo_tensor(*nothing, size=(1_000_000, 512), check_invariants=True)
    scattered = dict(hostile.small_state()) | {"fc8.weight": sparse}
    whole = hostile.torch_file(hostile.small_state())
    claims = hostile.zstd_that_claims(3_900_000_000, hostile.header_that_claims(3_900_000_000))
    cases: dict[str, tuple[str, bytes, str]] = {
        "network of 131 GB": ("s.safetensors", hostile.safetensors({}, hostile.giant_model()), "do not fit"),
        "sparse tensor of 4 TB": (
            "p.safetensors",
            hostile.safetensors(short, sparse={"w": huge}),
            "too much",
        ),
        "zstd that claims 3.9 GB": (
            "c.safetensors.zst",
            hostile.zstd_that_claims(3_900_000_000, claims),
            "cannot be read",
        ),
        "zstd of 3.9 GB of zeros": ("z.safetensors.zst", hostile.zstd_bomb(3_700), "cannot be read"),
        "weights that repeat one number": ("r.pt", hostile.torch_file(stretched), "not stored number by number"),
        "weights that are sparse": ("t.pt", hostile.torch_file(scattered), "do not fit|cannot be told|not stored"),
        "archive that claims 3 GB": ("a.pt", hostile.repacked(whole, claim=3_000_000_000), "as torch does not pack"),
        "archive of 90 million members": ("m.pt", hostile.archive_of_many(90_000_000), "too much"),
    }
    return {name: ("checkpoint", written(folder / file, data), words) for name, (file, data, words) in cases.items()}


def _graphs(folder: Path) -> dict[str, tuple[str, Path, str]]:
    (folder / "w.bin").write_bytes(bytes(40_000_000))
    whole = {"location": "w.bin", "offset": 0, "length": 40_000_000}
    aliased = [hostile.external(f"w{index}", [10_000_000], **whole) for index in range(200)]
    lying = hostile.claimed("big", [1 << 20, 1 << 20])
    cases: dict[str, tuple[str, bytes | onnx.ModelProto, str]] = {
        "ten million empty nodes": ("graph", hostile.empty_nodes(10_000_000), "too much"),
        "packed numbers of 2 GB": ("graph", hostile.packed_numbers(260_000_000), "too much"),
        "graphs in graphs": ("graph", hostile.nested_graphs(2_000), "too much"),
        "tensor of 4 TB in four bytes": ("graph", hostile.network([lying]), "does not hold what its shape says"),
        "200 tensors over one file": ("graph", hostile.network(aliased), "too much"),
        "functions of 10**12 nodes": ("graph", hostile.function_bomb(12, 10), "too much"),
        "constant of 4 TB": ("graph", hostile.constant_of_shape([1 << 20, 1 << 20]), "too much"),
        "300 constants of 100 MB": ("graph", hostile.constant_of_shape([25_000_000], 300), "too much"),
        "result of 12 TB": ("graph", hostile.expanded([1, 3, 1 << 20, 1 << 20]), "too much"),
        "fixed batch of a million": ("exported", _fixed(10**6, 8), "too much"),
        "images of 4,096 pixels, 64 at once": ("exported", _fixed(64, 4096), "too much"),
    }
    made = {}
    for index, (name, (opener, model, words)) in enumerate(cases.items()):
        data = model if isinstance(model, bytes) else model.SerializeToString()
        made[name] = (opener, written(folder / f"{index}.onnx", data), words)
    return made


def _fixed(batch: int, side: int) -> onnx.ModelProto:
    nodes = [onnx.helper.make_node("GlobalAveragePool", ["x"], ["p"]), onnx.helper.make_node("Flatten", ["p"], ["y"])]
    return hostile.model_of(nodes, shape=[batch, 3, side, side], result=[batch, 3])


def _others(folder: Path) -> dict[str, tuple[str, Path, str]]:
    def text(values: Any) -> bytes:
        return json.dumps(values).encode()

    bomb = hostile.histogram()
    bomb["histogram"]["counts"] = hostile.zlib_bomb(4_000)
    ztxt = b"Comment\0\0" + zlib.compress(bytes(200_000_000), 9)
    deep = b"[" * 200_000 + b"]" * 200_000
    idx = hostile.endless_idx((10, 28, 28), 3_000_000_000)
    cases: dict[str, tuple[str, str, bytes, str]] = {
        "png of 4 gigapixels": ("image", "b.png", hostile.png(65_000, 65_000), "is too large|cannot be read"),
        "png with a text of 200 MB": ("image", "t.png", hostile.png(8, 8, (b"zTXt", ztxt)), ""),
        "webp of 16,383 pixels": ("image", "w.webp", hostile.webp_canvas(16_383), "is too large|cannot be read"),
        "gzip without end": ("idx", "i.gz", idx, "or more follow"),
        "idx that claims 64 GB": ("idx", "j.gz", hostile.endless_idx((10**6, 256, 256), 0), "unpacks to more than"),
        "histogram of 4 GB": ("table", "t.json", text(hostile.table({"a": bomb})), "bytes or more, expected 65536"),
        "table nested 200,000 deep": ("table", "d.json", deep, "nested too deeply"),
        "bench nested 200,000 deep": ("bench", "e.json", deep, "nested too deeply"),
        "bench of 100 MB": ("bench", "f.json", b"[" + b"[]," * 33_000_000 + b"0]", "too large"),
        "engine of nothing": ("inspected", "x.engine", b"vtrt" + bytes(1000), "EngineError|known form|cut short"),
    }
    return {name: (opener, written(folder / file, data), words) for name, (opener, file, data, words) in cases.items()}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Outcome, str]]:
    folder = tmp_path_factory.mktemp("hostile")
    cases = _checkpoints(folder / "c") | _graphs(_made(folder / "g")) | _others(folder / "o")
    found = attacked([(opener, path) for opener, path, _ in cases.values()])
    for (_, path, _), outcome in zip(cases.values(), found, strict=True):
        print(f"{outcome.grown_bytes / 1e6:8.1f} MB {path.name}: {outcome.kind}: {outcome.message[:150]!r}")
    return {name: (outcome, case[2]) for (name, case), outcome in zip(cases.items(), found, strict=True)}


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


NAMES = (
    "network of 131 GB", "sparse tensor of 4 TB", "zstd that claims 3.9 GB", "zstd of 3.9 GB of zeros",
    "weights that repeat one number", "weights that are sparse", "archive that claims 3 GB",
    "archive of 90 million members", "ten million empty nodes", "packed numbers of 2 GB", "graphs in graphs",
    "tensor of 4 TB in four bytes", "200 tensors over one file", "functions of 10**12 nodes", "constant of 4 TB",
    "300 constants of 100 MB", "result of 12 TB", "fixed batch of a million", "images of 4,096 pixels, 64 at once",
    "png of 4 gigapixels", "png with a text of 200 MB", "webp of 16,383 pixels", "gzip without end",
    "idx that claims 64 GB", "histogram of 4 GB", "table nested 200,000 deep", "bench nested 200,000 deep",
    "bench of 100 MB", "engine of nothing",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_file_that_asks_for_gigabytes_is_refused(name: str, outcomes: dict[str, tuple[Outcome, str]]) -> None:
    assert set(outcomes) == set(NAMES)
    outcome, words = outcomes[name]
    assert outcome.kind in ("InputError", "WeightsError", "GraphError", "DataError", "ImageError", "EngineError"), (
        outcome
    )
    assert re.search(words, outcome.message), outcome
    assert outcome.grown_bytes < MOST_BYTES, outcome
