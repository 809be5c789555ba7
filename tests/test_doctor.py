"""The doctor says what is here, what is missing and how to get it, for machines with and without."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from alexnet_deploy import doctor
from alexnet_deploy.doctor import Finding, diagnose


def findings(monkeypatch: pytest.MonkeyPatch, **machine: object) -> dict[str, Finding]:
    """What it finds on a machine with these answers."""
    for name, answer in machine.items():
        function: Callable[..., object] = answer if callable(answer) else lambda *_, given=answer: given
        monkeypatch.setattr(doctor, name, function)
    return {finding.subject: finding for finding in diagnose()[1]}


def test_a_machine_with_everything_lacks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    flags = frozenset({"avx512_vnni", "avx512_bf16"})
    found = findings(monkeypatch, is_installed=True, count_gpus=2, cpu_flags=flags, version_of="1.2.3")
    assert {finding.state for finding in found.values()} == {"ok"}
    assert found["CUDA"].detail.startswith("2 ")
    assert found["openvino"].detail.startswith("1.2.3")
    assert not [finding for finding in found.values() if finding.remedy]


def test_a_machine_with_nothing_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    found = findings(monkeypatch, is_installed=False, count_gpus=0, cpu_flags=frozenset(), version_of=None)
    assert {name for name, finding in found.items() if finding.state == "missing"} == set(found) - {
        "CPU INT8", "CPU bf16",
    }  # fmt: skip
    assert {found["CPU INT8"].state, found["CPU bf16"].state} == {"limited"}
    extras = {"openvino": "openvino", "tensorrt-rtx": "rtx", "tensorrt": "tensorrt", "pycuda": "cuda"}
    for subject, extra in extras.items():
        assert found[subject].remedy == f"pip install 'alexnet-deploy[{extra}]'"
    for finding in found.values():
        assert finding.remedy or finding.state == "limited", finding.subject


def test_no_gpu_is_no_dead_end(monkeypatch: pytest.MonkeyPatch) -> None:
    found = findings(monkeypatch, count_gpus=0)
    assert found["CUDA"].state == "missing"
    assert "engine" in f"{found['CUDA'].detail} {found['CUDA'].remedy}"


@pytest.mark.parametrize("flag", ["avx512_vnni", "avx_vnni", "amx_int8"])
def test_any_vnni_is_enough_for_int8(flag: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = findings(monkeypatch, cpu_flags=frozenset({flag, "sse2"}))
    assert found["CPU INT8"] == Finding(subject="CPU INT8", state="ok", detail=flag)


def test_the_cpu_wheel_of_onnxruntime_counts_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(distribution: str) -> str | None:
        return "1.30" if distribution == "onnxruntime" else None

    found = findings(monkeypatch, is_installed=True, version_of=version)
    assert found["onnxruntime-gpu"].state == "ok" and found["onnxruntime-gpu"].detail.startswith("1.30")


def test_this_machine_has_what_the_package_needs() -> None:
    environment, found = diagnose()
    states = {finding.subject: finding.state for finding in found}
    assert states["torch"] == states["onnxruntime-gpu"] == "ok"
    assert set(states.values()) <= {"ok", "missing", "limited"}
    assert environment["cpus"] >= 1 and "torch" in environment["packages"]
    json.dumps(environment)
