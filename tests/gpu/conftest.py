"""Everything below this folder needs a CUDA device, and is skipped with the reason where there is none."""

from __future__ import annotations

import pytest

from alexnet_deploy.machine import count_gpus


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips by what the driver says."""
    for item in items:
        if "tests/gpu" in str(item.path):
            item.add_marker(pytest.mark.gpu)
            if count_gpus() == 0:
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))
