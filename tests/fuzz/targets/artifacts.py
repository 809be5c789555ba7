"""Passports, the engines that they vouch for, and what reads engines without opening them."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path
from random import Random
from typing import Any
from unittest import mock

from alexnet_deploy import artifacts
from alexnet_deploy.artifacts import matching_passport, passport_path, read_passport, require_passport
from alexnet_deploy.engines.plan import MAGIC, read_plan
from alexnet_deploy.inspection import inspect_file
from alexnet_deploy.prediction import engine_spec
from alexnet_deploy.runtimes import admission
from alexnet_deploy.runtimes.admission import admitted_engine
from tests.fuzz.mutate import bytes_of, json_of, text_of
from tests.fuzz.target import Target, require
from tests.fuzz.targets.networks import INFO
from tests.passports import write_passport

_PLAN_TEXT = (
    b'\n  tensor={ x name="i8" y type=int8 }\n  tensor={ const_payload_size=96 offset=64 name="w8" y type=int8 }'
    b'\n  tensor={ x name="f16" y type=half }\n  tensor={ const_payload_size=192 name="fc6.weight" y type=half }'
    b'\n  corrltn={ name="conv1_U1" output={"o" } input={"i8" "w8" } [ONNX Layer: conv1]'
    b'\n  corrltn={ name="conv1 [profile 1]_U1" output={"o" } input={"f16" "fc6.weight" } [ONNX Layer: conv1]'
    b'\n  function={ name=__myl_AddReluReshMulSum input_args={ "f16" "fc6.weight" } layers="[ONNX Layer: fc6]" }'
    b'\n  runtime_fusion={ name=__myl_FcAdd input_args={ "f16" "fc6.weight" } layers="[ONNX Layer: fc7]" }'
    b'\n  mul={ name="int4_block_dq" output={"d" } input={"w8" "s" }\n  function={ name=__myl_CastMove x'
)


def _plan() -> bytes:
    kernels = json.dumps(
        [{"name": "k", "shared_bytes": 0, "size": 4, "sm": 86, "threads": 32}], sort_keys=True
    ).encode()
    body = _PLAN_TEXT + struct.pack("<I", len(kernels)) + kernels + b"cubi"
    head = MAGIC + bytes(0x10 - 4) + struct.pack("<Q", 0x28) + bytes(8) + struct.pack("<Q", 4 | 8)
    return head + body


def _facts(backend: str) -> dict[str, Any]:
    options = {"sms": [86, 89], "profiles": [{"min": 1, "opt": 1, "max": 16}], "plugin": False}
    return {
        "precision": "int8", "backend": backend, "source": "shipped", "options": options, "driver": "13.0",
        "device": "a card", "lrn": "native", "model": INFO.to_json(),
        "plan": read_plan(_plan()).to_json() | {"sms": ["sm86", "sm89"]},
    }  # fmt: skip


def _passport_of(data: bytes, facts: dict[str, Any], **changes: Any) -> dict[str, Any]:
    values = {
        "schema": artifacts.PASSPORT_SCHEMA, "kind": "engine", "sha256": hashlib.sha256(data).hexdigest(),
        "parents": [{"path": "alexnet.onnx", "sha256": "0" * 64}], "request": "r", "facts": facts,
        "tools": {"alexnet-deploy": "1", facts["backend"]: "1.7.1"}, **changes,
    }  # fmt: skip
    return values | {"digest": _digest_of(values)}


def _digest_of(values: dict[str, Any]) -> str:
    rest = {key: value for key, value in values.items() if key != "digest"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _changed_passport(random: Random, values: dict[str, Any]) -> bytes:
    """Changed, and with the digest that belongs to the change where the file is to be read further."""
    if random.randrange(3) == 0:
        return text_of(random, values)
    facts = random.randrange(4) > 0
    found = values | {"facts": json_of(random, values["facts"])} if facts else json_of(random, values)
    return json.dumps(found | {"digest": _digest_of(found)} if isinstance(found, dict) else found).encode()


def _passport(_seeds: None, random: Random, folder: Path) -> None:
    path, data = folder / "a.onnx", random.randbytes(random.choice((0, 1, 100, 5000)))
    path.write_bytes(data)
    write_passport(path, kind="onnx", request="r", facts={"precision": "fp32", "layers": ["conv1"]})
    written = read_passport(path)
    require(written is not None and matching_passport(path) == written, "its own passport does not match")
    values = json.loads(passport_path(path).read_text())
    changed = random.choice(("artifact", "passport", "both"))
    # Another file: hashes are remembered by inode, size and time, and a case takes less than a tick of the clock.
    other = folder / "b.onnx"
    other.write_bytes(bytes_of(random, data) if changed != "passport" else data)
    text = _changed_passport(random, values) if changed != "artifact" else json.dumps(values).encode()
    passport_path(other).write_bytes(text)
    found = matching_passport(other)
    if found is not None:
        digest = hashlib.sha256(other.read_bytes()).hexdigest()
        require(found.sha256 == digest, "a passport of another file")
        said = json.loads(text)
        require(said["digest"] == _digest_of(said), "a changed passport")
    require((require_passport(other, because="is the matter here") == found) and found is not None, "two answers")


PASSPORTS = Target(
    "passport",
    "artifacts and passports, with and without the digest that fits: a passport matches the bytes it was "
    "written for, alone",
    lambda: None,
    _passport,
    1500,
)


# One with the GPU and the versions that the passports name.
_MACHINE: dict[str, Any] = {
    "count_gpus": lambda: 1, "gpu_sm": lambda: 89, "cuda_driver_version": lambda: "13.0", "gpu_name": lambda: "a card",
    "tensorrt_version": lambda _backend: "1.7.1", "is_installed": lambda _module: True,
}  # fmt: skip


def _engine(seed: bytes, random: Random, folder: Path) -> None:
    with mock.patch.multiple(admission, **_MACHINE):
        _admit(seed, random, folder)


def _admit(data: bytes, random: Random, folder: Path) -> None:
    backend = random.choice(("tensorrt", "tensorrt-rtx"))
    path = folder / "a.engine"
    values = _passport_of(data, _facts(backend))
    changed = random.choice(("engine", "passport", "passport"))
    path.write_bytes(bytes_of(random, data) if changed == "engine" else data)
    text = _changed_passport(random, values) if changed == "passport" else json.dumps(values).encode()
    if random.randrange(10):
        passport_path(path).write_bytes(text)
    trust = random.randrange(4) == 0
    spec, info = engine_spec(path, threads=1, trust=trust)
    found = admitted_engine(path, spec.runtime, trust=trust)
    if not trust:
        passport = read_passport(path)
        assert passport is not None
        require(passport.kind == "engine", "a passport of something else")
        require(hashlib.sha256(found.data).hexdigest() == passport.sha256, "an engine of another passport")
        lenient = found.options.get("version_compatible") or found.options.get("hardware_compatible")
        here = found.facts["version"] == "1.7.1" and "sm89" in found.facts["plan"]["sms"]
        require(here or lenient, "an engine for another machine")
    require(isinstance(found.plugins, bool) and (found.remedy is None or "build-engine" in found.remedy), "no remedy")
    require(info is None or info.preprocessing.image_size > 0, "no model")


ENGINES = Target(
    "engine",
    "engines and their passports, with digests that fit: admission refuses, or gives bytes that were hashed, for this "
    "machine; nothing is deserialized",
    _plan,
    _engine,
    1500,
)


def _read_plan(seed: bytes, random: Random, _folder: Path) -> None:
    data = bytes_of(random, seed)
    if random.randrange(20) == 0:
        # Long lines with no end, in which a pattern could look for ever.
        data += random.choice((b'\n  tensor={ name="', b"\n  corrltn={ name=", b"[ONNX Layer: ", b'input={"')) * 20_000
    plan = read_plan(data, random.choice(((), ("conv1", "fc6"))))
    json.dumps(plan.to_json(), allow_nan=False).encode()
    require(
        plan.size_bytes == len(data) and all(layer.weight_bytes >= 0 for layer in plan.layers), "sizes that cannot be"
    )


PLANS = Target(
    "plan",
    "bytes of TensorRT-RTX engines: the text in them gives a plan of plain values",
    _plan,
    _read_plan,
    1200,
)


def _inspected(seed: bytes, random: Random, folder: Path) -> None:
    path = folder / random.choice(("a.engine", "a.plan"))
    path.write_bytes(seed if random.randrange(2) else bytes_of(random, seed))
    values = _passport_of(seed, _facts(random.choice(("tensorrt", "tensorrt-rtx"))))
    passport_path(path).write_bytes(_changed_passport(random, values))
    document = inspect_file(str(path))
    json.dumps(document)
    matches = document["passport_matches"]
    require(
        matches is None or matches == (document["passport"]["sha256"] == document["sha256"]), "a match that is none"
    )


INSPECTED = Target(
    "inspect-engine",
    "engines and passports as `inspect` reads them: a document of plain values that says whether they match",
    _plan,
    _inspected,
    800,
)
