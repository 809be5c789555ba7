"""From a folder of images to a checkpoint with its passport, its log and its curve."""

from __future__ import annotations

import gzip
import io
import json
import signal
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from alexnet_deploy.artifacts import require_passport
from alexnet_deploy.data.catalog import FASHION_MNIST_CLASSES
from alexnet_deploy.data.shipped import Split, shipped_images
from alexnet_deploy.data.sources import ArraySource, FolderSource
from alexnet_deploy.errors import AlexnetDeployError, ArtifactError, InputError, TrainingError
from alexnet_deploy.files import sha256_of
from alexnet_deploy.progress import Voice
from alexnet_deploy.specs import Preprocessing, Resize
from alexnet_deploy.training import run
from alexnet_deploy.training.loop import TrainingResult, train
from alexnet_deploy.training.options import TrainingOptions
from alexnet_deploy.training.run import TrainingRequest, checkpoint_from_data, curve_from_log, preprocessing_from_source
from alexnet_deploy.variants import NetworkSpec
from alexnet_deploy.weights import ModelInfo, load_model, save_checkpoint
from tests.conftest import SMALL_SIDE, random_images, small_info, small_network


def write_idx(folder: Path, images: NDArray[np.uint8]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    labels = np.arange(len(images), dtype=np.uint8) % 10
    for name, array in (("images-idx3", images), ("labels-idx1", labels)):
        header = bytes([0, 0, 8, array.ndim]) + b"".join(side.to_bytes(4, "big") for side in array.shape)
        (folder / f"train-{name}-ubyte.gz").write_bytes(gzip.compress(header + array.tobytes()))
    return folder


def write_tree(folder: Path, classes: tuple[str, ...] = ("ant", "bee", "cat"), each: int = 4) -> Path:
    random = np.random.default_rng(0)
    for label, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for number in range(each):
            pixels = random.integers(0, 80, (40, 50, 3), dtype=np.uint8)
            pixels[:, :, label % 3] += 120
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


def request_of(data: Path | str, output: Path, **changes: Any) -> TrainingRequest:
    options = {"epochs": 2, "batch_size": 8, "precision": "fp32", "validation_share": 0.1, **changes.pop("options", {})}
    fields: dict[str, Any] = {"width": 0.125, "image_size": SMALL_SIDE, **changes}
    return TrainingRequest(data=str(data), output=output, options=TrainingOptions(**options), **fields)


@pytest.fixture
def idx_folder(tmp_path: Path) -> Path:
    return write_idx(tmp_path / "idx", random_images(40).images)


def test_a_folder_becomes_a_checkpoint_with_passport_log_and_curve(idx_folder: Path, tmp_path: Path) -> None:
    stream = io.StringIO()
    output = tmp_path / "out" / "small.safetensors"
    request = request_of(idx_folder, output, options={"epochs": 3})
    assert checkpoint_from_data(request, voice=Voice(stream=stream)) == output
    assert sorted(path.name for path in output.parent.iterdir()) == [
        "small.safetensors",
        "small.safetensors.json",
        "small.train.jsonl",
        "small.train.svg",
    ]

    network, info = load_model(str(output))
    assert network.spec == NetworkSpec(variant="paper", classes=10, width=0.125, image_size=SMALL_SIDE)
    assert info.labels == FASHION_MNIST_CLASSES
    assert info.name == "paper-idx"
    assert info.preprocessing == preprocessing_from_source(random_images(40), SMALL_SIDE)

    passport = require_passport(output, because="says what it is")
    assert passport.kind == "checkpoint"
    assert passport.sha256 == sha256_of(output)
    assert passport.parents == ()
    assert passport.facts["images"] == 36
    assert passport.facts["steps"] == 12
    assert ModelInfo.from_json(passport.facts["model"]) == info
    assert passport.facts["training"] == request.options.to_json()
    assert 0 <= passport.facts["validation_top1"] <= 1
    assert "torch" in passport.tools

    rows = [json.loads(line) for line in (output.parent / "small.train.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == [10]
    assert ET.parse(output.parent / "small.train.svg").getroot().tag.endswith("svg")
    said = stream.getvalue()
    assert "paper, 10 classes, on 36 images" in said
    assert "4 held out" in said
    assert f"wrote {output}" in said


def test_the_same_request_twice_gives_the_same_file(idx_folder: Path, tmp_path: Path) -> None:
    outputs = [checkpoint_from_data(request_of(idx_folder, tmp_path / n / "x.safetensors")) for n in ("a", "b")]
    assert outputs[0].read_bytes() == outputs[1].read_bytes()


def test_half_stores_fp16(idx_folder: Path, tmp_path: Path) -> None:
    small = checkpoint_from_data(
        request_of(idx_folder, tmp_path / "half.safetensors", half=True, options={"epochs": 1})
    )
    full = checkpoint_from_data(request_of(idx_folder, tmp_path / "full.safetensors", options={"epochs": 1}))
    assert small.stat().st_size == pytest.approx(full.stat().st_size / 2, rel=0.02)
    one, other = load_model(str(small))[0].state_dict(), load_model(str(full))[0].state_dict()
    assert all(torch.equal(one[name], other[name].half().float()) for name in one)


def test_images_of_guards_and_evaluations_are_not_trained_on(tmp_path: Path) -> None:
    guards = shipped_images(Split.GUARD).images[:3]
    evaluations = shipped_images(Split.EVALUATION).images[5:7]
    calibration = shipped_images(Split.CALIBRATION).images[:4]
    images = np.concatenate([random_images(20).images, guards, evaluations, calibration])
    stream = io.StringIO()
    request = request_of(
        write_idx(tmp_path / "idx", images), tmp_path / "x.safetensors", options={"validation_share": 0}
    )
    output = checkpoint_from_data(request, voice=Voice(stream=stream))
    assert require_passport(output, because="says what it is").facts["images"] == 24
    assert "5 left out, which guards and evaluations use" in stream.getvalue()


def test_a_folder_of_guards_alone_cannot_be_trained_on(tmp_path: Path) -> None:
    folder = write_idx(tmp_path / "idx", shipped_images(Split.GUARD).images[:10])
    with pytest.raises(TrainingError, match="too few images"):
        checkpoint_from_data(request_of(folder, tmp_path / "x.safetensors"))


def test_an_interrupted_run_goes_on_to_the_same_checkpoint(
    idx_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"optimizer": "sgd", "epochs": 2}
    whole = checkpoint_from_data(request_of(idx_folder, tmp_path / "whole" / "x.safetensors", options=options))
    output = tmp_path / "resumed" / "x.safetensors"
    original = train

    def interrupted(*args: Any, **named: Any) -> TrainingResult:
        class Pressing(Voice):
            def track(self, description: str, total: int, done: int = 0) -> Any:
                signal.raise_signal(signal.SIGINT)
                return super().track(description, total, done)

        return original(*args, **{**named, "voice": Pressing(quiet=True)})

    monkeypatch.setattr(run, "train", interrupted)
    with pytest.raises(KeyboardInterrupt):
        checkpoint_from_data(request_of(idx_folder, output, options=options))
    assert not output.exists()
    assert (output.parent / "x.training-state").is_file()
    monkeypatch.setattr(run, "train", original)
    checkpoint_from_data(request_of(idx_folder, output, options=options, resume=True))
    assert output.read_bytes() == whole.read_bytes()
    assert not (output.parent / "x.training-state").exists()


def test_without_an_interrupted_run_there_is_nothing_to_resume(idx_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no run to resume"):
        checkpoint_from_data(request_of(idx_folder, tmp_path / "x.safetensors", resume=True))
    assert not (tmp_path / "x.safetensors").exists()


# Fine-tuning


def test_fine_tuning_to_other_classes_keeps_the_trunk_and_makes_a_new_last_layer(
    small_checkpoint: Path, tmp_path: Path
) -> None:
    folder = write_tree(tmp_path / "photos")
    request = request_of(
        folder,
        tmp_path / "x.safetensors",
        model=str(small_checkpoint),
        options={"head_only": True, "epochs": 1, "learning_rate": 1e-6, "weight_decay": 0.0},
    )
    output = checkpoint_from_data(request)
    network, info = load_model(str(output))
    assert network.spec == NetworkSpec(variant="paper", classes=3, width=0.125, image_size=SMALL_SIDE)
    assert info.labels == ("ant", "bee", "cat")
    assert info.preprocessing == small_info().preprocessing
    old, new = small_network().state_dict(), network.state_dict()
    for name, tensor in new.items():
        if name.startswith("conv"):
            assert torch.equal(tensor, old[name]), name
        elif not name.startswith("fc8"):
            # Fine-tuned by steps of a millionth.
            assert float((tensor - old[name]).abs().max()) < 1e-5, name
    assert new["fc8.weight"].shape == (3, 512)
    passport = require_passport(output, because="says what it is")
    assert passport.parents == ((small_checkpoint.name, sha256_of(small_checkpoint)),)


def test_fine_tuning_to_the_same_classes_keeps_the_last_layer(
    idx_folder: Path, small_checkpoint: Path, tmp_path: Path
) -> None:
    request = request_of(
        idx_folder,
        tmp_path / "x.safetensors",
        model=str(small_checkpoint),
        options={"epochs": 1, "learning_rate": 1e-7, "weight_decay": 0.0},
    )
    network, info = load_model(str(checkpoint_from_data(request)))
    assert info.labels == FASHION_MNIST_CLASSES
    old = small_network().state_dict()
    for name, tensor in network.state_dict().items():
        assert float((tensor - old[name]).abs().max()) < 1e-5, name


def test_as_many_classes_of_other_names_get_a_new_last_layer(small_checkpoint: Path, tmp_path: Path) -> None:
    folder = write_tree(tmp_path / "photos", tuple(f"class-{i}" for i in range(10)), each=2)
    request = request_of(
        folder,
        tmp_path / "x.safetensors",
        model=str(small_checkpoint),
        options={"epochs": 1, "learning_rate": 1e-7, "head_only": True},
    )
    network, info = load_model(str(checkpoint_from_data(request)))
    assert info.labels == tuple(f"class-{i}" for i in range(10))
    # A new last layer starts at a hundredth; the old one's weights are ten times as large.
    assert float(network.state_dict()["fc8.weight"].std()) == pytest.approx(0.01, rel=0.1)


def test_the_classes_of_a_folder_can_be_learnt(tmp_path: Path) -> None:
    """Reddish, greenish and bluish noise."""
    request = request_of(
        write_tree(tmp_path / "photos", each=8),
        tmp_path / "x.safetensors",
        variant="owt",
        options={"epochs": 12, "validation_share": 0.25, "dropout": 0.0, "learning_rate": 1e-3},
    )
    passport = require_passport(checkpoint_from_data(request), because="says how well it learnt")
    assert passport.facts["validation_top1"] == 1.0


def test_what_is_learnt_from_is_said(tmp_path: Path) -> None:
    folder = write_tree(tmp_path / "photos", each=8)
    (folder / "montage.png").write_bytes((folder / "bee" / "0.png").read_bytes())
    stream = io.StringIO()
    options = {"epochs": 1, "batch_size": 10, "validation_share": 0.1}
    request = request_of(folder, tmp_path / "x.safetensors", options=options, accumulate=2)
    checkpoint_from_data(request, voice=Voice(stream=stream))
    said = stream.getvalue()
    assert "are of no class and are left out: 1" in said
    assert "2 batches of 10 images an epoch, in 2 parts each; the last 2 images of an epoch's order" in said
    assert "the validation top-1 is of 2 images and says little" in said


# What cannot be


@pytest.mark.parametrize("classes", [0, 1])
def test_less_than_two_classes_are_nothing_to_learn(classes: int, tmp_path: Path) -> None:
    folder = write_tree(tmp_path / "photos", each=1)
    one = next(folder.iterdir())
    source = one.parent / "only" if classes else one
    if classes:
        source.mkdir()
        one.rename(source / one.name)
    with pytest.raises(InputError, match="no classes to tell apart") as caught:
        checkpoint_from_data(request_of(source, tmp_path / "x.safetensors"))
    assert "one class" in str(caught.value.got) if classes else "no folder" in str(caught.value.got)


def test_a_model_that_is_not_there_ends_it_before_training(idx_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no model"):
        checkpoint_from_data(request_of(idx_folder, tmp_path / "x.safetensors", model="nowhere.safetensors"))


@pytest.mark.parametrize("name", ["x.bin", "x", "x.pt", "x.zst"])
def test_an_output_that_cannot_be_a_checkpoint_ends_it_before_training(
    name: str, idx_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trains(*_args: object, **_named: object) -> TrainingResult:
        pytest.fail("it trained for nothing")

    monkeypatch.setattr(run, "train", trains)
    with pytest.raises(InputError, match="cannot be a checkpoint"):
        checkpoint_from_data(request_of(idx_folder, tmp_path / name))


@pytest.mark.parametrize("inside", ["x.safetensors", "below/x.safetensors"])
def test_an_output_folder_that_cannot_be_is_an_artifact_error(inside: str, idx_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(ArtifactError, match="cannot be written"):
        checkpoint_from_data(request_of(idx_folder, tmp_path / "taken" / inside))


def test_images_that_are_all_the_same_are_refused(tmp_path: Path) -> None:
    folder = write_idx(tmp_path / "idx", np.full((20, 28, 28), 7, np.uint8))
    with pytest.raises(AlexnetDeployError, match="every image is the same"):
        checkpoint_from_data(request_of(folder, tmp_path / "x.safetensors"))


def test_damaged_photographs_can_be_skipped_and_are_counted(tmp_path: Path) -> None:
    folder = write_tree(tmp_path / "photos")
    (folder / "bee" / "9.png").write_bytes(b"not an image")
    options = {"epochs": 1, "batch_size": 13, "validation_share": 0}
    with pytest.raises(AlexnetDeployError, match=r"9\.png"):
        checkpoint_from_data(request_of(folder, tmp_path / "x.safetensors", options=options))
    stream = io.StringIO()
    request = request_of(folder, tmp_path / "x.safetensors", options=options, skip_bad=True)
    checkpoint_from_data(request, voice=Voice(stream=stream))
    assert "left out a damaged image" in stream.getvalue()
    assert "9.png" in stream.getvalue()


# Preprocessing


def test_grey_images_in_memory_are_normalized_by_their_own_statistics() -> None:
    source = random_images(30)
    found = preprocessing_from_source(source, 120)
    pixels = source.images / 255
    assert found == Preprocessing(
        image_size=120,
        resize_size=120,
        resize=Resize.STRETCH,
        mean=(round(float(pixels.mean()), 4),) * 3,
        std=(round(float(pixels.std()), 4),) * 3,
    )


def test_colour_images_in_memory_are_normalized_channel_by_channel() -> None:
    source = random_images(30, colour=True)
    source.images[..., 1] //= 2
    found = preprocessing_from_source(source, 120)
    wanted = (source.images / 255).mean(axis=(0, 1, 2)), (source.images / 255).std(axis=(0, 1, 2))
    assert found.mean == pytest.approx(tuple(wanted[0]), abs=6e-5)
    assert found.std == pytest.approx(tuple(wanted[1]), abs=6e-5)
    assert found.mean[1] < 0.6 * found.mean[0]


@pytest.mark.parametrize(("side", "resize"), [(224, 256), (227, 259), (99, 113)])
def test_photographs_get_imagenets_recipe(side: int, resize: int, tmp_path: Path) -> None:
    source = FolderSource(write_tree(tmp_path / "photos", each=1))
    assert preprocessing_from_source(source, side) == Preprocessing(image_size=side, resize_size=resize)


def test_colour_images_with_a_channel_that_never_changes_are_refused() -> None:
    images = random_images(10, colour=True).images
    images[..., 2] = 0
    source = ArraySource(images, np.zeros(10, np.int64), ("a",), "x")
    with pytest.raises(InputError, match="every image is the same"):
        preprocessing_from_source(source, 99)


# The curve


def test_a_curve_is_drawn_from_any_log(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [{"step": 10, "loss": 2.0}, {"step": 12, "epoch": 1, "validation_top1": 0.5}]
    for name, kept in (("both", rows), ("loss", rows[:1]), ("accuracy", rows[1:]), ("none", [])):
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in kept))
        curve_from_log(tmp_path / name, tmp_path / f"{name}.svg")
        assert ET.parse(tmp_path / f"{name}.svg").getroot().tag.endswith("svg")


def test_a_checkpoint_that_is_trained_on_is_not_changed_itself(tmp_path: Path, idx_folder: Path) -> None:
    start = tmp_path / "start.safetensors"
    save_checkpoint(small_network(), small_info(), start)
    before = start.read_bytes()
    request = request_of(idx_folder, tmp_path / "x.safetensors", model=str(start), options={"epochs": 1})
    checkpoint_from_data(request)
    assert start.read_bytes() == before
