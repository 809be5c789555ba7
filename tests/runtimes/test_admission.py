"""An engine is opened only where everything its passport says is so here; the message says what is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from alexnet_deploy.artifacts import passport_path
from alexnet_deploy.errors import (
    AlexnetDeployError,
    ArtifactError,
    EngineError,
    InputError,
    MissingDependencyError,
    RuntimeUnavailableError,
)
from alexnet_deploy.files import write_bytes
from alexnet_deploy.runtimes import admission
from alexnet_deploy.runtimes.admission import admitted_engine, engine_backend, engine_facts, rebuild_command
from tests.passports import write_passport

RTX_FACTS: dict[str, Any] = {
    "precision": "int8",
    "backend": "tensorrt-rtx",
    "source": "shipped",
    "options": {"sms": [86, 89], "profiles": [{"min": 1, "opt": 1, "max": 16}]},
    "plan": {"sms": ["sm86", "sm89"]},
    "driver": None,
}
FACTS: dict[str, Any] = RTX_FACTS | {
    "backend": "tensorrt",
    "options": {"sms": [90], "profiles": [{"min": 1, "opt": 8, "max": 16}]},
    "plan": {"sms": ["sm90"]},
    "driver": "13.0",
    "device": "a card",
}


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A machine with a GPU of SM89 and everything installed; a test changes what it is about."""
    here: dict[str, Any] = {
        "gpus": 1,
        "sm": 89,
        "driver": "13.0",
        "device": "a card",
        "version": "1.7.1",
        "installed": True,
    }
    monkeypatch.setattr(admission, "count_gpus", lambda: here["gpus"])
    monkeypatch.setattr(admission, "gpu_sm", lambda: here["sm"])
    monkeypatch.setattr(admission, "cuda_driver_version", lambda: here["driver"])
    monkeypatch.setattr(admission, "gpu_name", lambda: here["device"])
    monkeypatch.setattr(admission, "tensorrt_version", lambda _backend: here["version"])
    monkeypatch.setattr(admission, "is_installed", lambda _module: here["installed"])
    return here


def engine(folder: Path, facts: dict[str, Any], version: str = "1.7.1", kind: str = "engine") -> Path:
    path = folder / "a.engine"
    write_bytes(path, b"vtrt and so on")
    write_passport(path, kind=kind, facts=facts, tools={facts["backend"]: version})
    return path


def test_what_fits_is_admitted(tmp_path: Path, machine: dict[str, Any]) -> None:
    found = admitted_engine(engine(tmp_path, RTX_FACTS), "tensorrt-rtx")
    assert found.backend == "tensorrt-rtx" and not found.plugins
    assert found.facts["version"] == "1.7.1" and found.options == RTX_FACTS["options"]


def refused(path: Path, error: type[AlexnetDeployError], match: str, runtime: str = "tensorrt-rtx") -> Any:
    with pytest.raises(error, match=match) as caught:
        admitted_engine(path, runtime)
    return caught.value


def test_a_missing_engine(tmp_path: Path, machine: dict[str, Any]) -> None:
    refused(tmp_path / "a.engine", InputError, "is not there")
    with pytest.raises(InputError, match="is not there"):
        admitted_engine(tmp_path / "a.engine", "tensorrt-rtx", trust=True)


def test_no_passport(tmp_path: Path, machine: dict[str, Any]) -> None:
    path = engine(tmp_path, RTX_FACTS)
    passport_path(path).unlink()
    error = refused(path, ArtifactError, "no passport")
    assert "--trust" in str(error) and error.got == "none"


def test_a_changed_passport(tmp_path: Path, machine: dict[str, Any]) -> None:
    """That it is for this GPU is written into it by hand."""
    path = engine(tmp_path, RTX_FACTS | {"plan": {"sms": ["sm86"]}})
    text = passport_path(path).read_text()
    passport_path(path).write_text(text.replace('"sm86"', '"sm89"'))
    assert "changed" in str(refused(path, ArtifactError, "no passport").got)


def test_a_changed_engine(tmp_path: Path, machine: dict[str, Any]) -> None:
    path = engine(tmp_path, RTX_FACTS)
    path.write_bytes(b"vtrt and so oN")
    assert refused(path, ArtifactError, "not the file its passport describes").expected


def test_a_passport_of_something_else(tmp_path: Path, machine: dict[str, Any]) -> None:
    assert refused(engine(tmp_path, RTX_FACTS, kind="onnx"), InputError, "is not an engine").got == "onnx"


def test_another_backend(tmp_path: Path, machine: dict[str, Any]) -> None:
    refused(engine(tmp_path, RTX_FACTS), InputError, "engine of tensorrt-rtx", runtime="tensorrt")


def test_a_backend_that_is_not_installed(tmp_path: Path, machine: dict[str, Any], monkeypatch: Any) -> None:
    def missing(backend: str) -> str:
        raise MissingDependencyError(f"the backend {backend} needs a package")

    machine["installed"] = False
    monkeypatch.setattr(admission, "tensorrt_version", missing)
    refused(engine(tmp_path, RTX_FACTS), MissingDependencyError, "needs a package")


@pytest.mark.parametrize("here", ["1.7.2", "1.6.0", "2.0.0"])
def test_another_version(here: str, tmp_path: Path, machine: dict[str, Any]) -> None:
    machine["version"] = here
    error = refused(engine(tmp_path, RTX_FACTS), EngineError, "another version of tensorrt-rtx")
    assert error.got == f"built by 1.7.1, here is {here}" and error.expected == "1.7.1"
    assert error.remedy == (
        "build it anew: alexnet-deploy build-engine --int8 --backend tensorrt-rtx --sm sm86,sm89 --profile 1:1:16"
    )


@pytest.mark.parametrize(
    ("built", "here", "opens"),
    [
        ("10.9.0", "10.16.1", True),
        ("10.16.1", "10.16.1", True),
        ("10.16.1", "10.9.0", False),
        ("10.9.0", "11.1.0", True),
    ],
)
def test_a_version_compatible_engine(
    built: str, here: str, opens: bool, tmp_path: Path, machine: dict[str, Any]
) -> None:
    machine |= {"version": here, "sm": 90}
    path = engine(tmp_path, FACTS | {"options": FACTS["options"] | {"version_compatible": True}}, built)
    if opens:
        admitted_engine(path, "tensorrt")
    else:
        error = refused(path, EngineError, "another version", "tensorrt")
        assert error.expected == f"{built} or later" and "--version-compatible" in error.remedy


def test_no_gpu(tmp_path: Path, machine: dict[str, Any]) -> None:
    machine["gpus"] = 0
    refused(engine(tmp_path, RTX_FACTS), RuntimeUnavailableError, r"^built, not run: no CUDA device$")


def test_a_damaged_engine_is_damaged_without_a_gpu_too(tmp_path: Path, machine: dict[str, Any]) -> None:
    machine["gpus"] = 0
    path = engine(tmp_path, RTX_FACTS)
    path.write_bytes(b"")
    refused(path, ArtifactError, "not the file")


def test_another_gpu(tmp_path: Path, machine: dict[str, Any]) -> None:
    machine["sm"] = 120
    error = refused(engine(tmp_path, RTX_FACTS), EngineError, "another GPU")
    assert (error.got, error.expected) == ("this GPU is SM120", "SM86, SM89")
    assert "--sm sm120" in error.remedy


@pytest.mark.parametrize(
    ("compatible", "sm", "opens"), [(None, 90, True), (None, 89, False), ("ampere+", 80, True), ("ampere+", 75, False)]
)
def test_hardware_compatibility(
    compatible: str | None, sm: int, opens: bool, tmp_path: Path, machine: dict[str, Any]
) -> None:
    machine |= {"sm": sm, "version": "10.16.1"}
    options = FACTS["options"] | {"hardware_compatible": compatible}
    path = engine(tmp_path, FACTS | {"options": options}, "10.16.1")
    if opens:
        admitted_engine(path, "tensorrt")
    else:
        refused(path, EngineError, "another GPU", "tensorrt")


@pytest.mark.parametrize(("compatible", "opens"), [(None, False), ("same-sm", True), ("ampere+", True)])
def test_another_card_of_the_same_sm(
    compatible: str | None, opens: bool, tmp_path: Path, machine: dict[str, Any]
) -> None:
    machine |= {"sm": 90, "version": "10.16.1", "device": "another card"}
    path = engine(tmp_path, FACTS | {"options": FACTS["options"] | {"hardware_compatible": compatible}}, "10.16.1")
    if opens:
        admitted_engine(path, "tensorrt")
    else:
        error = refused(path, EngineError, "another card", "tensorrt")
        assert error.got == "built on a card, here is another card" and "same-sm" in error.expected


def test_tensorrt_rtx_says_itself_what_driver_and_card_it_takes(tmp_path: Path, machine: dict[str, Any]) -> None:
    machine |= {"driver": "12.9", "device": "another card"}
    admitted_engine(engine(tmp_path, RTX_FACTS | {"driver": "13.1", "device": None}), "tensorrt-rtx")


def test_what_was_hashed_is_what_is_opened(tmp_path: Path, machine: dict[str, Any]) -> None:
    path = engine(tmp_path, RTX_FACTS)
    found = admitted_engine(path, "tensorrt-rtx")
    path.write_bytes(b"something else")
    assert found.data == b"vtrt and so on"


@pytest.mark.parametrize(("driver", "opens"), [("13.0", True), ("13.1", True), ("12.9", False)])
def test_an_older_driver(driver: str, opens: bool, tmp_path: Path, machine: dict[str, Any]) -> None:
    machine |= {"driver": driver, "sm": 90, "version": "10.16.1"}
    path = engine(tmp_path, FACTS, "10.16.1")
    if opens:
        admitted_engine(path, "tensorrt")
    else:
        error = refused(path, EngineError, "newer driver", "tensorrt")
        assert (error.got, error.expected) == ("a driver for CUDA 12.9", "one for CUDA 13.0 or newer")
        assert "update the driver" in error.remedy


def test_the_plugin_needs_the_drivers_bindings(tmp_path: Path, machine: dict[str, Any], monkeypatch: Any) -> None:
    path = engine(tmp_path, RTX_FACTS | {"options": RTX_FACTS["options"] | {"plugin": True}})
    assert admitted_engine(path, "tensorrt-rtx").plugins
    monkeypatch.setattr(admission, "is_installed", lambda module: module != "cuda.bindings")
    error = refused(path, MissingDependencyError, "LRN plugin")
    assert "--lrn native" in error.remedy


def test_trust_opens_without_a_passport(tmp_path: Path, machine: dict[str, Any]) -> None:
    path = engine(tmp_path, RTX_FACTS)
    passport_path(path).write_text("{}")
    found = admitted_engine(path, "tensorrt-rtx", trust=True)
    assert found.facts == {} and found.options == {} and not found.plugins
    assert engine_backend(path, engine_facts(path, trust=True)) == "tensorrt-rtx"
    path.write_bytes(b"ptrt")
    assert engine_backend(path, {}) == "tensorrt"


def test_trust_does_not_make_another_gpu_the_right_one(tmp_path: Path, machine: dict[str, Any]) -> None:
    """The file differs from its passport, and the user says so be it; what the passport says of it still counts."""
    path = engine(tmp_path, RTX_FACTS)
    path.write_bytes(b"vtrt, changed")
    admitted_engine(path, "tensorrt-rtx", trust=True)
    machine["sm"] = 120
    with pytest.raises(EngineError, match="another GPU"):
        admitted_engine(path, "tensorrt-rtx", trust=True)


def test_the_command_names_all_that_differs_from_the_defaults() -> None:
    options = {
        "sms": [90], "profiles": [{"min": 1, "opt": 1, "max": 1}, {"min": 2, "opt": 8, "max": 32}], "plugin": True,
        "version_compatible": True, "refit": True, "strip": True, "hardware_compatible": "ampere+",
        "optimization_level": 0, "workspace_bytes": 1 << 20,
    }  # fmt: skip
    facts = {
        "precision": "fp8", "backend": "tensorrt", "source": "my net.onnx", "options": options, "allow_float": True,
    }  # fmt: skip
    assert rebuild_command(facts) == (
        "build it anew: alexnet-deploy build-engine --fp8 --backend tensorrt --model 'my net.onnx' --profile 1:1:1 "
        "--profile 2:8:32 --workspace 1048576 --optimization-level 0 --hardware-compatible ampere+ "
        "--version-compatible --refit --strip --lrn plugin --allow-float"
    )


def test_a_card_that_tensorrt_rtx_does_not_build_for_gets_the_command_of_tensorrt() -> None:
    command = rebuild_command(RTX_FACTS, sm=90)
    assert "--backend tensorrt --profile" in command and "--sm" not in command
