"""The images that ship are those of the manifest, and no image is in two of the three sets."""

from __future__ import annotations

import gzip
import hashlib
import itertools
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from alexnet_deploy.data import shipped
from alexnet_deploy.data.catalog import FASHION_MNIST_CLASSES, open_data
from alexnet_deploy.data.shipped import SIZES, Split, shipped_folder, shipped_hashes, shipped_images, write_shipped
from alexnet_deploy.errors import DataError, InputError


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy that a test may damage, opened in place of the real one."""
    folder = tmp_path / "calibration"
    shutil.copytree(shipped_folder("calibration"), folder)
    monkeypatch.setattr(shipped, "shipped_folder", lambda _name: folder)
    shipped_images.cache_clear()
    yield folder
    shipped_images.cache_clear()


@pytest.mark.parametrize(("split", "count"), [(Split.CALIBRATION, 512), (Split.GUARD, 1000), (Split.EVALUATION, 2000)])
def test_each_set_has_its_size(split: Split, count: int) -> None:
    source = shipped_images(split)
    assert len(source) == count == SIZES[split]
    assert source.images.shape == (count, 28, 28)
    assert source.classes == FASHION_MNIST_CLASSES
    assert source.name == f"shipped {split.value}"


@pytest.mark.parametrize("split", list(Split))
def test_each_set_shows_every_class(split: Split) -> None:
    counts = np.bincount(shipped_images(split).labels, minlength=10)
    assert counts.min() >= 0.6 * len(shipped_images(split)) / 10


def test_the_manifest_names_every_file_with_its_hash() -> None:
    folder = shipped_folder("calibration")
    manifest = json.loads((folder / "manifest.json").read_text())
    assert set(manifest["sets"]) == {split.value for split in Split}
    named: dict[str, str] = {}
    for split, entry in manifest["sets"].items():
        assert entry["count"] == SIZES[Split(split)]
        named |= {entry[kind]["file"]: entry[kind]["sha256"] for kind in ("images", "labels")}
    assert set(named) == {path.name for path in folder.glob("*.gz")}
    for name, digest in named.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest


def test_the_sets_share_no_image() -> None:
    hashes = {split: shipped_hashes(split) for split in Split}
    assert {split: len(found) for split, found in hashes.items()} == {
        Split.CALIBRATION: 512,
        Split.GUARD: 1000,
        # None of the first 2000 test images stands there twice.
        Split.EVALUATION: 2000,
    }
    for one, other in itertools.combinations(Split, 2):
        assert not hashes[one] & hashes[other]
    assert shipped_hashes(Split.GUARD, Split.EVALUATION) == hashes[Split.GUARD] | hashes[Split.EVALUATION]
    assert shipped_hashes() == frozenset()


def test_the_licence_of_the_images_lies_beside_them() -> None:
    text = (shipped_folder("calibration") / "LICENSE").read_text()
    assert "MIT" in text
    assert "Zalando" in text


@pytest.mark.parametrize("kind", ["images", "labels"])
def test_a_changed_file_is_refused_with_both_hashes(kind: str, copy: Path) -> None:
    path = next(copy.glob(f"*guard-{kind}*"))
    original = hashlib.sha256(path.read_bytes()).hexdigest()
    changed = bytearray(gzip.decompress(path.read_bytes()))
    changed[-1] ^= 1
    path.write_bytes(gzip.compress(bytes(changed), mtime=0))
    with pytest.raises(DataError, match="is not the file that shipped") as caught:
        shipped_images(Split.GUARD)
    assert caught.value.expected == f"sha256 {original}"
    assert caught.value.got == f"sha256 {hashlib.sha256(path.read_bytes()).hexdigest()}"
    # The other sets are not touched by it.
    assert len(shipped_images(Split.CALIBRATION)) == 512


def test_a_missing_file_is_refused(copy: Path) -> None:
    next(copy.glob("*guard-images*")).unlink()
    with pytest.raises(DataError, match="shipped images cannot be read") as caught:
        shipped_images(Split.GUARD)
    assert caught.value.remedy == "reinstall the package"


@pytest.mark.parametrize("text", ["", "{", "{}", '{"sets": {}}', '{"sets": {"guard": {}}}', "[]", "3"])
def test_a_garbled_manifest_is_refused(text: str, copy: Path) -> None:
    (copy / "manifest.json").write_text(text)
    with pytest.raises(DataError, match="shipped images cannot be read"):
        shipped_images(Split.GUARD)


def test_a_missing_manifest_is_refused(copy: Path) -> None:
    (copy / "manifest.json").unlink()
    with pytest.raises(DataError, match="shipped images cannot be read"):
        shipped_images(Split.GUARD)


def test_an_installed_wheel_brings_its_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pkg" / "shipped" / "models").mkdir(parents=True)
    monkeypatch.setattr(shipped, "_PACKAGE", tmp_path / "pkg")
    assert shipped_folder("models") == tmp_path / "pkg" / "shipped" / "models"
    assert shipped_folder("calibration") == tmp_path / "calibration"


def test_the_sets_are_written_anew_to_the_last_byte(tmp_path: Path) -> None:
    try:
        open_data("fashion-mnist", "test")
    except InputError:
        pytest.skip("the full Fashion-MNIST is not on this machine")
    write_shipped(tmp_path)
    for path in tmp_path.iterdir():
        # How tightly gzip packs depends on the zlib of the machine; what it holds does not.
        again, here = path.read_bytes(), (shipped_folder("calibration") / path.name).read_bytes()
        if path.suffix == ".gz":
            assert gzip.decompress(again) == gzip.decompress(here)
        else:
            keep = [entry["indices"] for entry in json.loads(again)["sets"].values()]
            assert keep == [entry["indices"] for entry in json.loads(here)["sets"].values()]
    assert len(list(tmp_path.iterdir())) == 7
