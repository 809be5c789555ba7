"""The precision proof, whoever says what became of the layers: an engine, or a CPU runtime's own graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from alexnet_deploy.errors import PrecisionProofError

# Of a layer, or of one of its optimisation profiles, that is not shown.
MISSING = "missing"


def require_layers(
    found: Mapping[str, str], expected: Sequence[str], precision: str, *, problem: str, remedy: str
) -> None:
    """Every layer has the precision.

    Args:
        found: Layers to the precision that they were found in.
        expected: Names of the layers that should have it.
        precision: Which.
        problem: What the others did or do, behind their number.
        remedy: For the message.

    Raises:
        PrecisionProofError: A layer is missing or has another precision.
    """
    wrong = {name: found.get(name, MISSING) for name in expected if found.get(name) != precision}
    if wrong:
        raise PrecisionProofError(
            f"{len(wrong)} of {len(expected)} layers {problem}",
            got=", ".join(f"{name} {got}" for name, got in wrong.items()),
            expected=f"{precision} for {', '.join(expected)}",
            remedy=remedy,
        )
