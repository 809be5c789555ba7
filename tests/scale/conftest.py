"""One cluster for all tests that need one: it takes seconds to start."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from alexnet_deploy.data.shipped import Split, shipped_images
from alexnet_deploy.progress import SILENT
from alexnet_deploy.scale.cluster import Cluster, connected
from alexnet_deploy.scale.ray_data import RayExecutor
from tests.scale.jobs import TWO_WORKERS


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Commands that run in this process find it and use it."""
    with connected(TWO_WORKERS, SILENT) as found:
        yield found


@pytest.fixture
def executor(cluster: Cluster) -> RayExecutor:
    return RayExecutor(cluster, SILENT)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two hundred shipped images as files in the folders of their classes, two more of which cannot be read."""
    folder = tmp_path_factory.mktemp("pictures")
    source = shipped_images(Split.EVALUATION)
    for index in range(200):
        place = folder / f"{int(source.labels[index]):02} {source.classes[int(source.labels[index])].replace('/', '-')}"
        place.mkdir(exist_ok=True)
        Image.fromarray(source.image(index)).save(place / f"{index:03}.png")
    return folder


@pytest.fixture(scope="session")
def damaged(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with two that cannot be read, in two chunks."""
    folder = tmp_path_factory.mktemp("damaged")
    for path in pictures.rglob("*.png"):
        copy = folder / path.relative_to(pictures)
        copy.parent.mkdir(exist_ok=True)
        copy.symlink_to(path)
    first, *_, last = sorted(folder.iterdir())
    (first / "000 cut.png").write_bytes(b"\x89PNG")
    (last / "zzz cut.png").write_bytes(b"\x89PNG")
    return folder
