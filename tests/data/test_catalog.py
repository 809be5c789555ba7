"""What stands after --data is opened as what it is, or refused with what to do about it."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alexnet_deploy.data import catalog
from alexnet_deploy.data.catalog import (
    CIFAR10_CLASSES,
    FASHION_MNIST_CLASSES,
    IMAGENETTE_CLASSES,
    NAMES,
    open_data,
)
from alexnet_deploy.data.sources import ArraySource, FolderSource, UnlabelledSource
from alexnet_deploy.errors import DataError, ImageError, InputError


@pytest.fixture(autouse=True)
def _bare_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No data set is installed, and none is cached."""
    monkeypatch.setattr(catalog, "SYSTEM_FOLDERS", {"fashion-mnist": tmp_path / "usr"})
    monkeypatch.setattr(catalog, "CACHE", tmp_path / "cache")


def write_idx(folder: Path, *, packed: bool = True, train: int = 6, test: int = 4, top: int = 9) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    for prefix, count in (("train", train), ("t10k", test)):
        images = random.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = np.linspace(0, top, count).astype(np.uint8)
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            header = bytes([0, 0, 8, array.ndim]) + b"".join(side.to_bytes(4, "big") for side in array.shape)
            data = header + array.tobytes()
            name = f"{prefix}-{kind}-ubyte"
            (folder / (name + ".gz" if packed else name)).write_bytes(gzip.compress(data) if packed else data)
    return folder


def write_cifar(folder: Path, *, top: int = 9) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    for name, count in (("data_batch_1", 2), ("data_batch_2", 3), ("test_batch", 1)):
        rows = random.integers(0, 256, (count, 3073), dtype=np.uint8)
        rows[:, 0] = top
        (folder / f"{name}.bin").write_bytes(rows.tobytes())
    return folder


def write_tree(folder: Path, classes: tuple[str, ...] = ("ant", "bee"), each: int = 2) -> Path:
    for label, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for number in range(each):
            pixels = np.full((8, 9, 3), 10 * label + number, np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


# Folders


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("named", [True, False])
def test_a_folder_of_idx_files_is_opened(packed: bool, named: bool, tmp_path: Path) -> None:
    folder = write_idx(tmp_path / "mnist", packed=packed)
    text = f"fashion-mnist:{folder}" if named else str(folder)
    train, test = open_data(text, "train"), open_data(text, "test")
    assert isinstance(train, ArraySource)
    assert (len(train), len(test)) == (6, 4)
    assert train.classes == FASHION_MNIST_CLASSES
    assert train.image(0).shape == (28, 28)
    assert train.labels.dtype == np.int64
    assert (train.name, test.name) == (f"{text.split(':')[0]} train", f"{text.split(':')[0]} test")


@pytest.mark.parametrize("named", [True, False])
def test_a_folder_of_cifar_batches_is_opened(named: bool, tmp_path: Path) -> None:
    folder = write_cifar(tmp_path / "cifar")
    text = f"cifar10:{folder}" if named else str(folder)
    train, test = open_data(text, "train"), open_data(text, "test")
    assert (len(train), len(test)) == (5, 1)
    assert train.classes == CIFAR10_CLASSES
    assert train.image(0).shape == (32, 32, 3)


@pytest.mark.parametrize("held_out", ["val", "test", "validation"])
def test_a_tree_with_both_splits_is_opened(held_out: str, tmp_path: Path) -> None:
    write_tree(tmp_path / "set" / "train", each=3)
    write_tree(tmp_path / "set" / held_out, each=1)
    train, test = open_data(str(tmp_path / "set"), "train"), open_data(str(tmp_path / "set"), "test")
    assert isinstance(train, FolderSource)
    assert (len(train), len(test)) == (6, 2)
    assert train.classes == test.classes == ("ant", "bee")


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_folder_of_classes_is_opened_for_either_split(split: str, tmp_path: Path) -> None:
    source = open_data(str(write_tree(tmp_path / "set")), split)
    assert len(source) == 4
    assert source.classes == ("ant", "bee")


def write_images(folder: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 9, 3), number, np.uint8)).save(folder / name)
    return folder


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize("split", ["train", "test"])
def test_a_folder_of_images_alone_is_opened_without_classes(split: str, labelled: bool, tmp_path: Path) -> None:
    folder = write_images(tmp_path / "set", "b.png", "a.jpg", "c.PNG")
    (folder / "empty").mkdir()
    (folder / "notes.txt").write_text("x")
    source = open_data(str(folder), split, labelled=labelled)
    assert isinstance(source, UnlabelledSource) and source.classes == ()
    assert [path.name for path in source.paths] == ["a.jpg", "b.png", "c.PNG"]
    assert source.labels.tolist() == [-1, -1, -1] and source.notes == ()
    assert source.image(1)[0, 0].tolist() == [0, 0, 0] and source.name_of(1) == str(folder / "b.png")


def test_a_link_to_nothing_and_what_is_hidden(tmp_path: Path) -> None:
    """The first is a damaged image, of which somebody hears; the others are of no class."""
    folder = write_images(tmp_path / "set", "a.png", ".thumbnails/a.png", ".cache/b/c.png")
    (folder / "b.png").symlink_to(folder / "nowhere")
    for labelled in (True, False):
        source = open_data(str(folder), "test", labelled=labelled)
        assert isinstance(source, UnlabelledSource)
        assert [path.name for path in source.paths] == ["a.png", "b.png"]
    with pytest.raises(ImageError, match=r"b\.png"):
        source.image(1)


def test_images_of_no_class_are_left_out_with_a_note_where_classes_matter(tmp_path: Path) -> None:
    folder = write_images(write_tree(tmp_path / "set" / "val").parent, "val/montage.png", "val/bee/deep/x.png")
    linked = write_images(tmp_path / "elsewhere", "y.png")
    (folder / "val" / "cat").symlink_to(linked)
    source = open_data(str(folder), "test")
    assert source.classes == ("ant", "bee", "cat") and len(source) == 6
    assert [note.rpartition(": ")[2] for note in source.notes] == ["1"] and "left out" in source.notes[0]
    everything = open_data(str(folder), "test", labelled=False)
    assert isinstance(everything, UnlabelledSource) and everything.notes == ()
    assert {path.relative_to(folder / "val").as_posix() for path in everything.paths} == {
        "ant/0.png", "ant/1.png", "bee/0.png", "bee/1.png", "bee/deep/x.png", "cat/y.png", "montage.png",
    }  # fmt: skip
    (folder / "beside.png").symlink_to(folder / "nowhere")
    assert open_data(str(folder), "test").notes[1].endswith("beside val/, are left out: 1")
    assert len(open_data(str(folder), "test", labelled=False).notes) == 1
    (folder / "beside.png").unlink()
    (folder / "val" / "montage.png").unlink()
    # The classes cost nothing, and bring the same order.
    assert open_data(str(folder), "test", labelled=False).classes == ("ant", "bee", "cat")


@pytest.mark.parametrize(("there", "asked"), [("train", "test"), ("val", "train"), ("test", "train")])
def test_a_tree_with_one_split_does_not_pass_it_off_as_the_other(there: str, asked: str, tmp_path: Path) -> None:
    write_tree(tmp_path / "set" / there)
    with pytest.raises(DataError, match=f"has no {asked} images") as caught:
        open_data(str(tmp_path / "set"), asked)
    assert caught.value.got == f"{there}/ only"


@pytest.mark.parametrize(
    ("child", "writer"),
    [("cifar-10-batches-bin", write_cifar), ("FashionMNIST/raw", write_idx), ("raw", write_idx)],
)
def test_the_folder_that_an_archive_unpacks_to_may_be_left_out(child: str, writer: object, tmp_path: Path) -> None:
    assert callable(writer)
    writer(tmp_path / "set" / child)
    assert len(open_data(str(tmp_path / "set"), "train")) in (5, 6)


def test_a_folder_below_home_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write_tree(tmp_path / "set")
    assert len(open_data("~/set", "train")) == 4


# Imagenette


def test_imagenettes_folders_are_called_by_their_words(tmp_path: Path) -> None:
    for split in ("train", "val"):
        write_tree(tmp_path / "set" / "imagenette2-320" / split, tuple(IMAGENETTE_CLASSES), each=1)
    words = tuple(IMAGENETTE_CLASSES.values())
    for text in (f"imagenette:{tmp_path / 'set'}", str(tmp_path / "set" / "imagenette2-320")):
        assert open_data(text, "train").classes == words
        assert open_data(text, "test").classes == words


def test_imagenettes_classes_are_in_the_order_of_the_folders() -> None:
    assert list(IMAGENETTE_CLASSES) == sorted(IMAGENETTE_CLASSES)
    assert len(set(IMAGENETTE_CLASSES.values())) == 10


def test_other_wordnet_folders_keep_their_names(tmp_path: Path) -> None:
    source = open_data(str(write_tree(tmp_path / "set", ("n01440764", "n09999999"))), "train")
    assert source.classes == ("n01440764", "n09999999")


# Names


def test_a_name_is_looked_for_in_the_system_and_then_in_the_cache(tmp_path: Path) -> None:
    write_idx(tmp_path / "cache" / "fashion-mnist" / "FashionMNIST" / "raw", train=3)
    assert len(open_data("fashion-mnist", "train")) == 3
    write_idx(tmp_path / "usr", train=5)
    source = open_data("fashion-mnist", "train")
    assert len(source) == 5
    assert source.name == "fashion-mnist train"


def test_a_cached_folder_serves_every_name(tmp_path: Path) -> None:
    write_cifar(tmp_path / "cache" / "cifar10")
    assert len(open_data("cifar10", "train")) == 5


@pytest.mark.parametrize("name", NAMES)
def test_a_data_set_that_is_not_on_the_machine_says_how_to_get_it(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"{name} is not on this machine") as caught:
        open_data(name, "train")
    assert str(tmp_path / "cache" / name) in str(caught.value.got)
    assert f"--data {name}:FOLDER" in str(caught.value.remedy)


def test_fashion_mnist_says_that_it_can_be_installed_or_fetched() -> None:
    with pytest.raises(InputError) as caught:
        open_data("fashion-mnist", "train")
    assert "dataset-fashion-mnist" in str(caught.value.remedy)
    assert "--download" in str(caught.value.remedy)


def test_a_download_that_fails_is_a_data_error_and_suggests_no_download(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torchvision.datasets

    def offline(*_args: object, **_named: object) -> None:
        raise RuntimeError("Error downloading train-images-idx3-ubyte.gz")

    monkeypatch.setattr(torchvision.datasets, "FashionMNIST", offline)
    with pytest.raises(DataError, match="could not be fetched") as caught:
        open_data("fashion-mnist", "train", download=True)
    assert "Error downloading" in str(caught.value.got)
    assert "--download" not in str(caught.value.remedy)


def test_a_download_is_opened_from_where_torchvision_puts_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision.datasets

    def fetch(root: str, *, download: bool) -> None:
        assert download
        write_idx(Path(root) / "FashionMNIST" / "raw")

    monkeypatch.setattr(torchvision.datasets, "FashionMNIST", fetch)
    assert len(open_data("fashion-mnist", "train", download=True)) == 6
    # The second time it is there.
    assert len(open_data("fashion-mnist", "test")) == 4


def test_nothing_is_fetched_where_it_is_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision.datasets

    def fetch(*_args: object, **_named: object) -> None:
        pytest.fail("it was fetched")

    monkeypatch.setattr(torchvision.datasets, "FashionMNIST", fetch)
    with pytest.raises(InputError):
        open_data("fashion-mnist", "train")


# Refusals


@pytest.mark.parametrize("text", ["nowhere", "mnist", "fashion-mnist:nowhere", "cifar10:/no/where", "a\0b", ":x", ""])
def test_a_name_or_folder_that_is_not_there_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        open_data(text, "train")


def test_a_folder_that_is_not_there_is_answered_with_the_names() -> None:
    with pytest.raises(InputError, match="no data source or folder 'nowhere'") as caught:
        open_data("nowhere", "train")
    assert caught.value.expected == "fashion-mnist, cifar10, imagenette, or a folder"


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(b"")
    with pytest.raises(InputError, match="no data source or folder"):
        open_data(str(tmp_path / "x.png"), "train")


def test_an_empty_folder_holds_no_images(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no images") as caught:
        open_data(str(tmp_path / "empty"), "train")
    assert "train/ and val/" in str(caught.value.remedy)


def test_a_class_label_out_of_range_is_refused(tmp_path: Path) -> None:
    write_idx(tmp_path / "idx", top=10)
    with pytest.raises(DataError, match="a label is out of range") as caught:
        open_data(str(tmp_path / "idx"), "train")
    assert caught.value.expected == "0 to 9"
    write_cifar(tmp_path / "cifar", top=255)
    with pytest.raises(DataError, match="a label is out of range"):
        open_data(str(tmp_path / "cifar"), "train")


def test_an_idx_folder_with_a_missing_file_is_refused_by_its_name(tmp_path: Path) -> None:
    folder = write_idx(tmp_path / "idx")
    (folder / "train-images-idx3-ubyte.gz").unlink()
    (folder / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DataError, match="train-images-idx3-ubyte cannot be read"):
        open_data(str(folder), "train")
    with pytest.raises(DataError, match="t10k-labels-idx1-ubyte cannot be read"):
        open_data(str(folder), "test")


def test_an_idx_folder_whose_images_are_not_images_is_refused(tmp_path: Path) -> None:
    folder = write_idx(tmp_path / "idx", packed=False)
    labels = (folder / "train-labels-idx1-ubyte").read_bytes()
    (folder / "train-images-idx3-ubyte").write_bytes(labels)
    with pytest.raises(DataError, match="does not hold grey images") as caught:
        open_data(str(folder), "train")
    assert caught.value.got == "1 and 1 dimensions"


def test_images_and_labels_of_different_numbers_are_refused(tmp_path: Path) -> None:
    folder = write_idx(tmp_path / "idx")
    (folder / "train-labels-idx1-ubyte.gz").write_bytes((folder / "t10k-labels-idx1-ubyte.gz").read_bytes())
    with pytest.raises(DataError, match="images and labels do not match") as caught:
        open_data(str(folder), "train")
    assert caught.value.got == "6 images, 4 labels"


def test_a_cifar_folder_without_the_split_is_refused(tmp_path: Path) -> None:
    folder = write_cifar(tmp_path / "cifar")
    (folder / "test_batch.bin").unlink()
    with pytest.raises(DataError, match="holds no test batches"):
        open_data(str(folder), "test")
