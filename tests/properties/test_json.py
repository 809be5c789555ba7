"""What is written as JSON comes back, and fingerprints are of what a document says and not of how it is laid out."""

from __future__ import annotations

import ast
import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import alexnet_deploy
from alexnet_deploy.artifacts import Passport, passport_path, read_passport
from alexnet_deploy.bench.peaks import Peaks
from alexnet_deploy.engines.options import EngineOptions, Profile
from alexnet_deploy.files import write_json
from alexnet_deploy.pipeline.engine import engine_name
from alexnet_deploy.precision.findings import Finding, Kind, Part
from alexnet_deploy.precision.histogram import Histogram
from alexnet_deploy.precision.table import CalibrationTable, observed
from alexnet_deploy.precision.thresholds import Method
from alexnet_deploy.specs import Interpolation, Precision, Preprocessing, Resize, fingerprint
from alexnet_deploy.variants import VARIANTS, NetworkSpec
from alexnet_deploy.weights import ModelInfo

FEW = settings(derandomize=True, deadline=None, max_examples=60)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | FINITE | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
FACTOR = st.floats(1e-3, 1e3)


@st.composite
def preprocessings(draw: st.DrawFn, image_size: int | None = None, largest: int = 300) -> Preprocessing:
    side = image_size or draw(st.integers(1, largest))
    return Preprocessing(
        image_size=side,
        resize=draw(st.sampled_from(Resize)),
        resize_size=draw(st.integers(side, side + largest)),
        interpolation=draw(st.sampled_from(Interpolation)),
        channel_order=draw(st.sampled_from(["rgb", "bgr"])),
        scale=draw(FACTOR),
        mean=draw(st.tuples(*[st.floats(-1e3, 1e3)] * 3)),
        std=draw(st.tuples(*[FACTOR] * 3)),
    )


networks = st.builds(
    NetworkSpec,
    variant=st.sampled_from(sorted(VARIANTS)),
    classes=st.integers(1, 5),
    width=st.floats(0.001, 8),
    image_size=st.integers(63, 1024),
    softmax=st.booleans(),
)


@st.composite
def infos(draw: st.DrawFn) -> ModelInfo:
    network = draw(st.none() | networks)
    labels = draw(st.lists(st.text(max_size=6), max_size=4))
    if network is not None:
        labels = draw(st.sampled_from([[], [f"class {number}" for number in range(network.classes)]]))
    return ModelInfo(
        name=draw(st.text(max_size=10)),
        network=network,
        preprocessing=draw(preprocessings(network.image_size if network else None)),
        labels=tuple(labels),
    )


peaks = st.builds(
    Peaks,
    device=st.text(max_size=5),
    threads=st.integers(1, 1000),
    read_bytes_per_second=st.floats(0, 1e15),
    macs_per_second=st.dictionaries(st.sampled_from([p.value for p in Precision]), st.floats(0, 1e15)),
    kernels=st.dictionaries(st.text(max_size=5), st.text(max_size=5)),
)
findings = st.builds(
    Finding,
    kind=st.sampled_from(Kind),
    layer=st.text(max_size=5),
    part=st.sampled_from(Part),
    tensor=st.text(max_size=5),
    count=st.integers(1, 50),
    total=st.integers(50, 10**9),
    largest=st.none() | st.floats(0, 1e30),
)
ROUND_TRIPS: dict[type[Any], st.SearchStrategy[Any]] = {
    Preprocessing: preprocessings(),
    NetworkSpec: networks,
    ModelInfo: infos(),
    Peaks: peaks,
    Finding: findings,
}
# Theirs are in tests/precision, with the files that they come from.
ELSEWHERE = {"Histogram", "Observed", "ChannelRanges"}


@given(st.data())
@FEW
def test_descriptions_come_back_from_json_with_the_same_fingerprint(data: st.DataObject) -> None:
    for kind, strategy in ROUND_TRIPS.items():
        value = data.draw(strategy)
        back = kind.from_json(json.loads(json.dumps(value.to_json(), allow_nan=False)))
        assert back == value
        assert fingerprint(back.to_json()) == fingerprint(value.to_json())


def test_every_class_that_reads_json_is_tried() -> None:
    found = set()
    for path in Path(alexnet_deploy.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef) and any(
                isinstance(inner, ast.FunctionDef) and inner.name == "from_json" for inner in node.body
            ):
                found.add(node.name)
    assert found == {kind.__name__ for kind in ROUND_TRIPS} | ELSEWHERE


VALUES = hnp.arrays(np.float32, st.integers(1, 40), elements=st.floats(-1e6, 1e6, width=32))


@given(st.dictionaries(st.text(max_size=6), VALUES, max_size=3), st.sampled_from(Method), st.floats(0.1, 100))
@FEW
def test_a_table_of_any_values_comes_back_from_its_file(
    values: dict[str, Any], method: Method, percentile: float
) -> None:
    tensors = {}
    for name, array in values.items():
        histogram = Histogram()
        histogram.add(array)
        tensors[name] = observed(histogram, percentile)
    table = CalibrationTable(
        method=method, percentile=percentile, tensors=tensors, graph_sha256="a", preprocessing="b", images=("c",)
    )
    with tempfile.TemporaryDirectory() as folder:
        table.write(Path(folder) / "table.json")
        assert CalibrationTable.read(Path(folder) / "table.json") == table


passports = st.builds(
    Passport,
    kind=st.text(max_size=5),
    sha256=st.text(max_size=5),
    parents=st.lists(st.tuples(st.text(max_size=4), st.text(max_size=4)), max_size=2).map(tuple),
    request=st.text(max_size=5),
    facts=st.dictionaries(st.text(max_size=5), JSON, max_size=3),
    tools=st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=2),
)


@given(passports, passports)
@FEW
def test_a_passport_of_any_facts_comes_back_and_its_digest_is_its_own(one: Passport, other: Passport) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a"
        write_json(passport_path(path), one.to_json())
        assert read_passport(path) == one
        # What one says under the other's digest is not believed.
        write_json(passport_path(path), one.to_json() | {"digest": other.to_json()["digest"]})
        same = json.dumps(one.to_json(), sort_keys=True) == json.dumps(other.to_json(), sort_keys=True)
        assert (read_passport(path) is not None) == same


@given(JSON, JSON, st.randoms(use_true_random=False))
@FEW
def test_a_fingerprint_is_of_the_values_in_any_order_of_keys(one: Any, other: Any, random: Any) -> None:
    def shuffled(value: Any) -> Any:
        if isinstance(value, list):
            return [shuffled(each) for each in value]
        if not isinstance(value, dict):
            return value
        keys = list(value)
        random.shuffle(keys)
        return {key: shuffled(value[key]) for key in keys}

    assert fingerprint(shuffled(one)) == fingerprint(one)
    alike = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    assert (fingerprint(one) == fingerprint(other)) == alike
    assert fingerprint(one) == hashlib.sha256(json.dumps(one, sort_keys=True).encode()).hexdigest()[:16]


@st.composite
def engine_options(draw: st.DrawFn) -> EngineOptions:
    backend = draw(st.sampled_from(["tensorrt", "tensorrt-rtx"]))
    sms = draw(st.lists(st.sampled_from([86, 89, 120]), min_size=1, max_size=3, unique=True).map(sorted))
    least = draw(st.integers(1, 3))
    return EngineOptions(
        precision=draw(st.sampled_from([Precision.FP32, Precision.FP16, Precision.INT8])),
        backend=backend,
        sms=tuple(sms) if backend == "tensorrt-rtx" else (89,),
        plugin=draw(st.booleans()),
        profiles=draw(st.sampled_from([EngineOptions(precision=Precision.FP32, backend=backend, sms=(89,)).profiles,
                                       (Profile(min=least, opt=least + 1, max=least + 2),)])),
        workspace_bytes=draw(st.sampled_from([None, 1 << 20, 1 << 30])),
    )  # fmt: skip


@given(engine_options(), engine_options())
@FEW
def test_engines_of_other_options_have_other_names(one: EngineOptions, other: EngineOptions) -> None:
    names = [engine_name("a", options) for options in (one, other)]
    assert (names[0] == names[1]) == (one == other)
    assert all(name == Path(name).name and name.endswith(".engine") for name in names)
    assert engine_name("b", one) != names[0]


@given(passports)
@FEW
def test_any_change_to_a_passport_is_noticed(passport: Passport) -> None:
    values = passport.to_json()
    assume(values["kind"] != "x")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a"
        for key in ("kind", "sha256", "request"):
            write_json(passport_path(path), values | {key: values[key] + "x"})
            assert read_passport(path) is None
