"""The bounds stand in one place with a reason each, let the family pass, and are those of the document."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from alexnet_deploy import limits
from alexnet_deploy.variants import VARIANTS, NetworkSpec, layers_from_network

SOURCE = Path(limits.__file__).read_text()
PAGE = Path(limits.__file__).parents[1] / "docs" / "security.md"
BOUNDS = {name: value for name, value in vars(limits).items() if name.startswith("MAX_")}


def test_the_table_of_the_document_has_every_bound() -> None:
    rows = dict(re.findall(r"^\| `(MAX_\w+)` \| ([\d,]+) \|", PAGE.read_text(), re.MULTILINE))
    assert {name: int(value.replace(",", "")) for name, value in rows.items()} == BOUNDS


def test_every_bound_has_its_reason_above_it_and_is_used() -> None:
    lines = SOURCE.splitlines()
    package = [path.read_text() for path in Path(limits.__file__).parent.rglob("*.py") if path.name != "limits.py"]
    for name in BOUNDS:
        at = next(index for index, line in enumerate(lines) if line.startswith(f"{name} = "))
        above = [line for line in lines[:at] if not line.startswith("MAX_")][-1]
        assert above.startswith("# "), name
        assert any(re.search(rf"(?<!import ){name}\b(?!,?\n)", text) for text in package), f"{name} holds nothing"


def test_no_bound_is_defined_elsewhere() -> None:
    for path in Path(limits.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                assert node.targets[0].id not in BOUNDS or path.name == "limits.py", path


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("width", [0.125, 1.0, 2.0])
def test_the_family_is_within_the_bounds(variant: str, width: float) -> None:
    layers = layers_from_network(NetworkSpec(variant=variant, width=width))
    size = 4 * sum(layer.parameters for layer in layers)
    assert size < limits.MAX_CHECKPOINT_BYTES and size < limits.MAX_ONNX_BYTES
    assert 2 * sum(bool(layer.parameters) for layer in layers) < limits.MAX_CHECKPOINT_TENSORS
    assert len(layers) < limits.MAX_GRAPH_NODES / 100
    assert 256 * 4 * max(layer.output[0] * layer.output[-1] ** 2 for layer in layers if len(layer.output) == 3) < (
        limits.MAX_RESULT_BYTES
    )
