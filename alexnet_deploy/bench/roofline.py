"""The least time that a network can take on a machine, layer by layer, and what bounds it.

S. Williams, A. Waterman, D. Patterson, Roofline: an insightful visual performance model (2009): a layer takes at
least as long as its arithmetic at the peak rate, and at least as long as what it must read at the peak bandwidth. Its
weights are read once a run, images by the first layer, and logits are written by the last. What lies between two layers
is not counted, because a cache may hold it; nor are normalisation, pooling and activation functions. So the limit is
below what can be had, and a fraction of it is never flattered. A cache that holds weights from run to run can beat it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from alexnet_deploy.bench.peaks import Peaks

MEMORY, COMPUTE = "memory", "compute"


@dataclass(frozen=True, kw_only=True)
class LayerCost:
    """What one layer of a session needs.

    Attributes:
        macs: Multiply-adds for one image.
        run_bytes: Read for each run, whatever its batch: the weights as the session holds them.
        image_bytes: Read and written for each image, at the borders of the network.
        precision: Of the arithmetic, as `Peaks` has it.
    """

    name: str
    macs: int
    run_bytes: int
    image_bytes: int
    precision: str


@dataclass(frozen=True, kw_only=True)
class Limit:
    """The least time of a layer or a network for one batch, and whether memory or arithmetic takes most of it."""

    bound: str
    limit_ms: float
    macs: int
    size_bytes: int
    memory_share: float

    def to_json(self, median_ms: float) -> dict[str, Any]:
        """With the fraction of the limit that a time reaches."""
        return {
            "bound": self.bound,
            "limit_ms": round(self.limit_ms, 4),
            "fraction": round(self.limit_ms / median_ms, 4),
            "macs": self.macs,
            "bytes": self.size_bytes,
            "memory_share": round(self.memory_share, 3),
        }


def layer_limit(cost: LayerCost, batch: int, peaks: Peaks) -> Limit | None:
    """The limit of one layer; None where the machine's peak in its precision is not known."""
    rate = peaks.macs_per_second.get(cost.precision)
    if rate is None:
        return None
    macs, size_bytes = batch * cost.macs, cost.run_bytes + batch * cost.image_bytes
    arithmetic, reading = 1e3 * macs / rate, 1e3 * size_bytes / peaks.read_bytes_per_second
    bound = MEMORY if reading > arithmetic else COMPUTE
    return Limit(
        bound=bound,
        limit_ms=max(arithmetic, reading),
        macs=macs,
        size_bytes=size_bytes,
        memory_share=float(bound == MEMORY),
    )


def network_limit(costs: Sequence[LayerCost], batch: int, peaks: Peaks) -> Limit | None:
    """The sum over the layers, which run one after the other; None where a layer's limit is not known."""
    limits = [layer_limit(cost, batch, peaks) for cost in costs]
    known = [limit for limit in limits if limit is not None]
    total = sum(limit.limit_ms for limit in known)
    if len(known) < len(limits) or total == 0:
        return None
    share = sum(limit.limit_ms for limit in known if limit.bound == MEMORY) / total
    return Limit(
        bound=MEMORY if share > 0.5 else COMPUTE,
        limit_ms=total,
        macs=sum(limit.macs for limit in known),
        size_bytes=sum(limit.size_bytes for limit in known),
        memory_share=share,
    )
