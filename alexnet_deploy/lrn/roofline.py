"""The least memory traffic of LRN and the pool behind it, and the time it takes at a GPU's bandwidth: on paper.

Counted: every tensor that a kernel reads or writes, once. Not counted: caches that hold a tensor between two kernels
(an H100 keeps 50 MB, an RTX 4090 72 MB), launches, and arithmetic.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from alexnet_deploy.specs import Precision
from alexnet_deploy.variants import NetworkSpec, layers_from_network

# Bytes a second: NVIDIA H100 Tensor Core GPU datasheet (SXM); NVIDIA Ada GPU Architecture whitepaper (RTX 4090).
BANDWIDTHS = {"H100 SXM": 3.35e12, "RTX 4090": 1.008e12}
_BYTES = {Precision.FP32: 4, Precision.FP16: 2, Precision.BF16: 2}


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """One LRN with its pool, in one way of running it.

    Attributes:
        way: Which kernels run.
        passes: What is read and written, in words.
        size_bytes: Moved to and from memory.
    """

    norm: str
    way: str
    passes: str
    size_bytes: int

    def to_json(self) -> dict[str, Any]:
        """With the time at each GPU's bandwidth, in microseconds."""
        times = {gpu: round(self.size_bytes / bandwidth * 1e6, 2) for gpu, bandwidth in BANDWIDTHS.items()}
        return {
            "norm": self.norm,
            "way": self.way,
            "passes": self.passes,
            "bytes": self.size_bytes,
            "microseconds": times,
        }


def traffic(spec: NetworkSpec, precision: Precision, batch: int) -> list[Traffic]:
    """Bytes moved by each way of running each LRN that a max pool follows.

    Args:
        spec: The network.
        precision: Of the tensors around the norm.
        batch: Images.
    """
    layers = layers_from_network(spec)
    rows = []
    for norm, pool in pairwise(layers):
        if norm.op != "lrn" or pool.op != "pool":
            continue
        width = _BYTES[precision] * batch
        image, pooled = (width * _elements(shape) for shape in (norm.output, pool.output))
        wide = 4 * batch * _elements(norm.output)
        rows += [
            Traffic(norm=norm.name, way="LRN kernel alone", passes="read, write", size_bytes=2 * image),
            Traffic(
                norm=norm.name,
                way="LRN, then pool",
                passes="read, write; read, write a quarter",
                size_bytes=3 * image + pooled,
            ),
            Traffic(
                norm=norm.name, way="LRN and pool fused", passes="read, write a quarter", size_bytes=image + pooled
            ),
        ]
        if precision is not Precision.FP32:
            cast = Traffic(
                norm=norm.name,
                way="LRN in FP32 between casts, then pool",
                passes="read, write wide; read, write wide; read wide, write; read, write a quarter",
                size_bytes=3 * image + 4 * wide + pooled,
            )
            rows.insert(-1, cast)
    return rows


def _elements(shape: tuple[int, ...]) -> int:
    count = 1
    for side in shape:
        count *= side
    return count
