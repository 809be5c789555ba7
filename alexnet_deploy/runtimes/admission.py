"""Whether an engine may be opened here, decided from its passport before a byte of it is deserialized.

An engine is a program that runs with this process's rights. What is not in the passport is not trusted, and what the
passport says must be what is here; the message says what differs, and the command that builds it anew.
"""

from __future__ import annotations

import hashlib
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alexnet_deploy.artifacts import Passport, read_passport, require_hash, stated_passport
from alexnet_deploy.errors import (
    ArtifactError,
    EngineError,
    InputError,
    MissingDependencyError,
    RuntimeUnavailableError,
)
from alexnet_deploy.limits import MAX_ENGINE_BYTES, bounded_bytes
from alexnet_deploy.machine import count_gpus, cuda_driver_version, gpu_name, gpu_sm
from alexnet_deploy.optional import is_installed, tensorrt_version
from alexnet_deploy.specs import AMPERE, RTX_MAGIC, RTX_SMS, Precision

_BACKENDS = ("tensorrt", "tensorrt-rtx")
# How a bench row begins whose engine was built and cannot be executed here.
NOT_RUN = "built, not run: "


@dataclass(frozen=True, kw_only=True)
class Admitted:
    """An engine that may be opened.

    Attributes:
        data: The bytes that were hashed, which are the ones to be opened.
        backend: `tensorrt` or `tensorrt-rtx`.
        facts: Of its passport; empty where an engine without one is trusted.
        parent: Name and hash of the graph that it was made of; None where no passport says so.
    """

    path: Path
    data: bytes
    backend: str
    facts: dict[str, Any]
    parent: tuple[str, str] | None = None

    @property
    def options(self) -> dict[str, Any]:
        """What was asked of the builder."""
        found: dict[str, Any] = self.facts.get("options", {})
        return found

    @property
    def remedy(self) -> str | None:
        """The command that builds it anew; None where no passport says how."""
        return rebuild_command(self.facts) if self.facts else None

    @property
    def plugins(self) -> bool:
        """Whether it needs our LRN plugin."""
        return bool(self.options.get("plugin"))


def admitted_engine(path: Path, runtime: str, *, trust: bool = False) -> Admitted:
    """Checks, in this order: the passport and the hash, the backend, that it is installed, its version, that there is
    a GPU, its SM, its driver, and what the plugin needs.

    Args:
        path: The engine.
        runtime: `tensorrt` or `tensorrt-rtx`.
        trust: Open it without a passport, or with one that does not match; what the passport says is checked still.

    Raises:
        InputError: There is no such file.
        ArtifactError: The passport is missing, changed, or of another file.
        EngineError: It was built by another version, or for another GPU or driver.
        MissingDependencyError: The backend, or what the plugin needs, is not installed.
        RuntimeUnavailableError: There is no GPU.
    """
    passport = _passport(path, trust=trust)
    facts, data = _facts_of(path, passport), bounded_bytes(path, MAX_ENGINE_BYTES)
    if passport is not None and not trust:
        require_hash(path, passport, hashlib.sha256(data).hexdigest())
    backend = facts.get("backend", runtime)
    if backend != runtime:
        raise InputError(f"{path.name} is an engine of {backend}", expected=f"one of {runtime}")
    if not is_installed(runtime.replace("-", "_")):
        tensorrt_version(runtime)
    if facts:
        _require_version(path, facts)
    if count_gpus() == 0:
        raise RuntimeUnavailableError(f"{NOT_RUN}no CUDA device")
    if facts:
        _require_sm(path, facts)
        if backend == "tensorrt":
            _require_device(path, facts)
            _require_driver(path, facts)
    parent = passport.parents[0] if passport is not None and passport.parents else None
    admitted = Admitted(path=path, data=data, backend=backend, facts=facts, parent=parent)
    if admitted.plugins and backend == "tensorrt-rtx" and not is_installed("cuda.bindings"):
        raise MissingDependencyError(
            f"{path.name} has our LRN plugin, which launches its kernel through cuda-bindings",
            remedy="pip install 'alexnet-deploy[cuda]', or build the engine with --lrn native",
        )
    return admitted


def engine_backend(path: Path, facts: dict[str, Any]) -> str:
    """Which backend built a file: as its passport says, or by how it begins where there is none."""
    stated: str | None = facts.get("backend")
    if stated is not None:
        return stated
    with path.open("rb") as file:
        return "tensorrt-rtx" if file.read(len(RTX_MAGIC)) == RTX_MAGIC else "tensorrt"


def engine_facts(path: Path, *, trust: bool = False) -> dict[str, Any]:
    """What the passport says, and the builder's `version`; nothing where an engine is trusted without one.

    The engine itself is not read: `admitted_engine` holds it against the passport.

    Raises:
        InputError: There is no such file, or it is no engine.
        ArtifactError: The passport is missing or changed.
    """
    return _facts_of(path, _passport(path, trust=trust))


def _passport(path: Path, *, trust: bool) -> Passport | None:
    if trust:
        if not path.is_file():
            raise InputError(f"{path} is not there", remedy="check the path")
        found = read_passport(path)
        return found if found is not None and found.kind == "engine" else None
    passport = stated_passport(path, because="says what built it; an engine is a program (--trust opens it)")
    if passport.kind != "engine":
        raise InputError(f"{path} is not an engine", got=passport.kind, expected="what build-engine makes")
    return passport


def _facts_of(path: Path, passport: Passport | None) -> dict[str, Any]:
    if passport is None:
        return {}
    wrong = _wrong_with(passport.facts)
    if wrong is not None:
        raise ArtifactError(
            f"the passport of {path.name} does not describe an engine as build-engine does",
            got=wrong,
            expected="backend, precision, options and plan of an engine",
            remedy="build the engine again, or open it without its passport (--trust, with the passport moved away)",
        )
    return passport.facts | {"version": passport.tools.get(passport.facts["backend"])}


def _wrong_with(facts: dict[str, Any]) -> str | None:
    """The first fact that is not of the kind that an engine's has: its digest says that it is whole, not what it is."""
    if facts.get("backend") not in _BACKENDS or facts.get("precision") not in list(Precision):
        return f"backend {facts.get('backend')!r:.40}, precision {facts.get('precision')!r:.40}"
    texts = [facts.get(name) for name in ("source", "driver", "device", "lrn")]
    options, plan = facts.get("options", {}), facts.get("plan", {})
    if not all(isinstance(text, str | None) for text in texts) or not (
        isinstance(options, dict) and isinstance(plan, dict)
    ):
        return "a fact of another kind"
    profiles, built_for = options.get("profiles", []), options.get("sms", [])
    if not isinstance(profiles, list) or not all(
        isinstance(profile, dict) and all(isinstance(profile.get(name), int) for name in ("min", "opt", "max"))
        for profile in profiles
    ):
        return "profiles that are none"
    sms = plan.get("sms", [])
    if not (isinstance(built_for, list) and all(isinstance(sm, int) for sm in built_for)) or not (
        isinstance(sms, list) and all(isinstance(sm, str) and re.fullmatch(r"sm[0-9]{1,4}", sm) for sm in sms)
    ):
        return "SMs that are none"
    return None


def _require_version(path: Path, facts: dict[str, Any]) -> None:
    built, here = str(facts["version"]), tensorrt_version(facts["backend"])
    lean = facts.get("options", {}).get("version_compatible", False)
    if built == here or (lean and _numbers(built) <= _numbers(here)):
        return
    raise EngineError(
        f"{path.name} was built by another version of {facts['backend']}",
        got=f"built by {built}, here is {here}",
        expected=f"{built}" + (" or later" if lean else ""),
        remedy=rebuild_command(facts),
    )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())


def _require_sm(path: Path, facts: dict[str, Any]) -> None:
    here = gpu_sm()
    built = [int(sm.removeprefix("sm")) for sm in facts.get("plan", {}).get("sms", [])]
    compatible = facts.get("options", {}).get("hardware_compatible")
    if here in built or (compatible == "ampere+" and here is not None and here >= AMPERE):
        return
    raise EngineError(
        f"{path.name} was built for another GPU",
        got=f"this GPU is SM{here}",
        expected=", ".join(f"SM{sm}" for sm in built) or "an SM in its passport",
        remedy=rebuild_command(facts, sm=here),
    )


def _require_device(path: Path, facts: dict[str, Any]) -> None:
    """TensorRT tunes for the very card: on another of the same SM its engine is slower, or wrong."""
    built, here = facts.get("device"), gpu_name()
    if built == here or facts.get("options", {}).get("hardware_compatible"):
        return
    raise EngineError(
        f"{path.name} was built on another card",
        got=f"built on {built or 'one that its passport does not name'}, here is {here}",
        expected="the same card, or an engine built with --hardware-compatible same-sm",
        remedy=rebuild_command(facts),
    )


def _require_driver(path: Path, facts: dict[str, Any]) -> None:
    built, here = facts.get("driver"), cuda_driver_version()
    # Built without a GPU, so without a driver: the runtime itself says what it needs.
    if built is None or here is None or _numbers(here) >= _numbers(built):
        return
    raise EngineError(
        f"{path.name} was built with a newer driver",
        got=f"a driver for CUDA {here}",
        expected=f"one for CUDA {built} or newer",
        remedy=f"update the driver, or {rebuild_command(facts)}",
    )


def rebuild_command(facts: dict[str, Any], *, sm: int | None = None) -> str:
    """The command that builds the engine of a passport anew, here or for another SM."""
    options = facts.get("options", {})
    backend = facts["backend"] if sm is None or sm in RTX_SMS else "tensorrt"
    parts = ["alexnet-deploy", "build-engine", f"--{facts['precision']}", "--backend", backend]
    if facts.get("source", "shipped") != "shipped":
        parts += ["--model", facts["source"]]
    if backend == "tensorrt-rtx":
        sms = [sm] if sm is not None else options.get("sms", [])
        parts += ["--sm", ",".join(f"sm{each}" for each in sms)]
    for profile in options.get("profiles", []):
        parts += ["--profile", f"{profile['min']}:{profile['opt']}:{profile['max']}"]
    valued = {"--workspace": "workspace_bytes"}
    if backend == "tensorrt":
        valued |= {"--optimization-level": "optimization_level", "--hardware-compatible": "hardware_compatible"}
    for flag, name in valued.items():
        if options.get(name) is not None:
            parts += [flag, str(options[name])]
    parts += ["--" + name.replace("_", "-") for name in ("version_compatible", "refit", "strip") if options.get(name)]
    if options.get("plugin"):
        parts += ["--lrn", "plugin"]
    if facts.get("allow_float"):
        parts.append("--allow-float")
    return f"build it anew: {shlex.join(parts)}"
