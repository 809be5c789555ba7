"""Training learns, a run that was interrupted ends with the weights of one that was not, and no guard is trained on."""

from __future__ import annotations

import contextlib
import itertools
import json
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from alexnet_deploy.data.preprocessing import batch_from_images
from alexnet_deploy.data.sources import ImageSource
from alexnet_deploy.errors import AlexnetDeployError, DataError, ImageError, InputError, TrainingError
from alexnet_deploy.network import AlexNet
from alexnet_deploy.progress import SILENT, Track, Voice
from alexnet_deploy.training import feed, loop
from alexnet_deploy.training.loop import (
    TrainingData,
    TrainingFiles,
    TrainingResult,
    split_for_training,
    train,
    uses_bf16,
)
from alexnet_deploy.training.options import TrainingOptions, learning_rate_at
from tests.conftest import random_images, small_network, small_preprocessing

STEPS_PER_EPOCH, EPOCHS = 3, 3
# What torch leaves to MKL's vector library. A process's first call of one of these by two threads at once may be right
# to 2e-4 only in one thread's share (https://github.com/pytorch/pytorch/issues/188792).
OF_MKL = frozenset({
    "acos", "asin", "atan", "cos", "cosh", "erf", "erfc", "erfinv", "exp", "expm1", "lgamma", "log", "log10", "log1p",
    "log2", "sin", "sinh", "sqrt", "tan", "tanh",
})  # fmt: skip


def data_of(train_count: int = 24, validation_count: int = 6) -> TrainingData:
    return TrainingData(
        train=random_images(train_count),
        validation=random_images(validation_count, seed=5) if validation_count else None,
        preprocessing=small_preprocessing(),
    )


def options_of(**changes: Any) -> TrainingOptions:
    fields: dict[str, Any] = {"epochs": EPOCHS, "batch_size": 8, "precision": "fp32", **changes}
    return TrainingOptions(**fields)


def epoch_order(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    """The order in which an epoch takes its images, as `Feed` draws it."""
    return np.random.default_rng([seed, epoch]).permutation(count)


def files_in(folder: Path) -> TrainingFiles:
    return TrainingFiles(state=folder / "run.training-state", log=folder / "run.train.jsonl")


class _TrackThatActs(Track):
    def __init__(self, act: Any) -> None:
        super().__init__(SILENT, "", 0, None)
        self._act = act

    def advance(self, count: int = 1, note: str = "") -> None:
        super().advance(count, note)
        self._act(self._done)


class VoiceThatActs(Voice):
    """Calls `act` with the number of every step of this run, after the step."""

    def __init__(self, act: Any) -> None:
        super().__init__(quiet=True)
        self._act = act

    @contextlib.contextmanager
    def track(self, description: str, total: int, done: int = 0) -> Iterator[Track]:
        yield _TrackThatActs(self._act if description == "train" else lambda _step: None)


def interrupting_at(step: int) -> Voice:
    """Presses Ctrl-C in that step."""

    def act(done: int) -> None:
        if done == step:
            signal.raise_signal(signal.SIGINT)

    return VoiceThatActs(act)


def losing_power_at(step: int) -> Voice:
    def act(done: int) -> None:
        if done == step:
            raise ZeroDivisionError("the power is gone")

    return VoiceThatActs(act)


def whole_run(folder: Path, options: TrainingOptions) -> tuple[AlexNet, TrainingResult]:
    network = small_network()
    return network, train(network, data_of(), options, files_in(folder))


def resumed_run(
    folder: Path, options: TrainingOptions, voice: Voice, error: type[BaseException]
) -> tuple[AlexNet, TrainingResult]:
    with pytest.raises(error):
        train(small_network(), data_of(), options, files_in(folder), voice=voice)
    network = small_network()
    return network, train(network, data_of(), options, files_in(folder), resume=True)


def assert_same_weights(one: AlexNet, other: AlexNet) -> None:
    first, second = one.state_dict(), other.state_dict()
    different = {name for name in first if not torch.equal(first[name], second[name])}
    assert not different


def state_of(network: AlexNet) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def mean_loss(network: AlexNet, source: ImageSource) -> float:
    images = batch_from_images([source.image(i) for i in range(len(source))], small_preprocessing())
    with torch.no_grad():
        return float(F.cross_entropy(network(torch.from_numpy(images)), torch.from_numpy(source.labels)))


# Learning


@pytest.mark.parametrize(("optimizer", "rate"), [("adamw", 1e-3), ("sgd", 1e-2)])
def test_training_lowers_the_loss(optimizer: str, rate: float, tmp_path: Path) -> None:
    network, data = small_network(), data_of(16, 0)
    before = mean_loss(network, data.train)
    options = options_of(epochs=25, optimizer=optimizer, learning_rate=rate, dropout=0.0, flip=False)
    result = train(network, data, options, files_in(tmp_path))
    assert mean_loss(network, data.train) < 0.3 * before
    assert result.steps == 50
    assert result.validation_top1 is None
    assert not network.training


@pytest.mark.parametrize("schedule", ["onecycle", "cosine"])
def test_a_step_is_the_one_that_plain_torch_takes(schedule: str, tmp_path: Path) -> None:
    """One step of SGD on all the images, written out; without dropout and flips nothing is drawn."""
    network, plain, data = small_network(), small_network(), data_of(8, 0)
    options = options_of(
        epochs=1, optimizer="sgd", learning_rate=1e-2, dropout=0.0, flip=False, schedule=schedule, clip_norm=0.5,
        weight_decay=0.1, label_smoothing=0.1,
    )  # fmt: skip
    train(network, data, options, files_in(tmp_path))
    images = batch_from_images([data.train.image(i) for i in range(8)], small_preprocessing())
    logits = plain(torch.from_numpy(images))
    parameters = dict(plain.named_parameters())
    loss = F.cross_entropy(logits, torch.from_numpy(data.train.labels), label_smoothing=0.1)
    gradients = torch.autograd.grad(loss, list(parameters.values()))
    norm = torch.sqrt(sum((g.square().sum() for g in gradients), torch.zeros(())))
    assert float(norm) > 0.5
    for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True):
        decay = 0.1 * parameter.detach() if name.endswith("weight") else torch.zeros_like(parameter)
        # Nesterov's first step: the gradient, and 0.9 of the momentum that it has just become.
        wanted = parameter.detach() - 1e-2 * 1.9 * (gradient * 0.5 / norm + decay)
        assert torch.allclose(network.state_dict()[name], wanted, rtol=0, atol=2e-7), name


def test_the_same_run_twice_gives_the_same_weights(tmp_path: Path) -> None:
    one, first = whole_run(tmp_path / "a", options_of())
    other, second = whole_run(tmp_path / "b", options_of())
    assert_same_weights(one, other)
    assert first.validation_top1 == second.validation_top1


class Operators(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes what torch is asked to compute."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names = set[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func.overloadpacket.__name__.rstrip("_"))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_nothing_is_asked_of_an_operator_whose_first_call_may_differ(optimizer: str, tmp_path: Path) -> None:
    network = small_network()
    with Operators() as asked:
        train(network, data_of(), options_of(optimizer=optimizer, epochs=1), files_in(tmp_path))
    assert {"rsqrt", "convolution_backward"} < asked.names
    assert not asked.names & OF_MKL
    with asked:
        torch.ones(2).sqrt_()
    assert asked.names & OF_MKL


def test_another_seed_gives_other_weights(tmp_path: Path) -> None:
    one, _ = whole_run(tmp_path / "a", options_of())
    other, _ = whole_run(tmp_path / "b", options_of(seed=1))
    assert not torch.equal(one.state_dict()["conv1.weight"], other.state_dict()["conv1.weight"])


def test_the_head_alone_leaves_the_trunk_as_it_was(tmp_path: Path) -> None:
    network, data = small_network(), data_of()
    before = state_of(network)
    train(network, data, options_of(head_only=True), files_in(tmp_path))
    changed = {name for name, tensor in network.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {f"fc{index}.{kind}" for index in (6, 7, 8) for kind in ("weight", "bias")}


def test_the_head_alone_learns_what_the_whole_would_from_a_frozen_trunk(tmp_path: Path) -> None:
    """Features are kept in FP16, so that the step is the plain one to about three digits."""
    network, plain, data = small_network(), small_network(), data_of(8, 0)
    options = options_of(
        epochs=1, optimizer="sgd", learning_rate=1e-2, dropout=0.0, flip=False, weight_decay=0.0, head_only=True,
        clip_norm=1e9,
    )  # fmt: skip
    train(network, data, options, files_in(tmp_path))
    images = batch_from_images([data.train.image(i) for i in range(8)], small_preprocessing())
    loss = F.cross_entropy(plain(torch.from_numpy(images)), torch.from_numpy(data.train.labels))
    head = {name: p for name, p in plain.named_parameters() if name.startswith("fc")}
    for (name, parameter), gradient in zip(head.items(), torch.autograd.grad(loss, list(head.values())), strict=True):
        moved = network.state_dict()[name] - parameter.detach()
        wanted = -1e-2 * 1.9 * gradient
        assert float((moved - wanted).norm()) <= 5e-3 * float(wanted.norm()) + 1e-6, name


def test_features_that_do_not_fit_in_memory_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "_MAX_FEATURE_BYTES", 1000)
    with pytest.raises(TrainingError, match="do not fit in memory") as caught:
        train(small_network(), data_of(), options_of(head_only=True), files_in(tmp_path))
    assert "--head-only" in str(caught.value.remedy)


def test_images_of_another_size_train_a_network_that_takes_its_own_size_again(tmp_path: Path) -> None:
    network = small_network()
    seen: set[tuple[int, ...]] = set()
    network.get_submodule("conv1").register_forward_pre_hook(
        lambda _module, inputs: seen.add(tuple(inputs[0].shape[1:]))
    )
    before = state_of(network)
    result = train(network, data_of(), options_of(epochs=1, train_size=71), files_in(tmp_path))
    assert seen == {(3, 71, 71)}
    assert not network.any_size
    assert result.validation_top1 is not None
    assert not torch.equal(network.state_dict()["conv1.weight"], before["conv1.weight"])
    with torch.no_grad():
        assert network(torch.zeros(1, 3, 99, 99)).shape == (1, 10)


@pytest.mark.parametrize("size", [5, 20, 40])
def test_images_too_small_for_the_pools_are_refused_in_our_words(size: int, tmp_path: Path) -> None:
    with pytest.raises(AlexnetDeployError):
        train(small_network(), data_of(), options_of(epochs=1, train_size=size), files_in(tmp_path))


def test_pruning_reaches_its_density_in_a_run(tmp_path: Path) -> None:
    network = small_network()
    train(network, data_of(), options_of(density=0.2), files_in(tmp_path))
    for name in ("fc6.weight", "fc7.weight"):
        weight = network.state_dict()[name]
        assert int(weight.count_nonzero()) == round(0.2 * weight.numel())
    assert bool((network.state_dict()["fc8.weight"] != 0).all())


def test_a_run_on_fewer_images_than_a_batch_takes_one_step_an_epoch(tmp_path: Path) -> None:
    result = train(small_network(), data_of(5, 0), options_of(batch_size=64), files_in(tmp_path))
    assert result.steps == EPOCHS


def test_validation_is_the_share_of_right_answers(tmp_path: Path) -> None:
    network, data = small_network(), data_of(8, 20)
    assert data.validation is not None
    result = train(network, data, options_of(epochs=1), files_in(tmp_path))
    images = batch_from_images([data.validation.image(i) for i in range(20)], small_preprocessing())
    with torch.no_grad():
        right = int((network(torch.from_numpy(images)).argmax(1).numpy() == data.validation.labels).sum())
    assert result.validation_top1 == right / 20


@pytest.mark.parametrize(
    ("precision", "flags", "used"),
    [
        ("fp32", {"amx_bf16"}, False),
        ("bf16", set(), True),
        ("auto", {"amx_bf16"}, True),
        ("auto", {"avx512_bf16"}, True),
        ("auto", {"avx512f"}, False),
    ],
)
def test_bf16_is_used_where_it_is_asked_for_or_the_processor_has_it(
    precision: str, flags: set[str], used: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "cpu_flags", lambda: frozenset(flags))
    assert uses_bf16(precision, "cpu") is used


def test_a_run_in_bf16_keeps_its_weights_in_fp32(tmp_path: Path) -> None:
    network = small_network()
    train(network, data_of(), options_of(epochs=1, precision="bf16"), files_in(tmp_path))
    assert {tensor.dtype for tensor in network.state_dict().values()} == {torch.float32}
    fp32 = small_network()
    train(fp32, data_of(), options_of(epochs=1), files_in(tmp_path))
    assert not torch.equal(network.state_dict()["conv1.weight"], fp32.state_dict()["conv1.weight"])


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path: Path) -> None:
    network = small_network()
    network.state_dict()["fc8.bias"][3] = torch.nan
    with pytest.raises(TrainingError, match="the loss is nan at step 0") as caught:
        train(network, data_of(), options_of(), files_in(tmp_path))
    assert "--learning-rate" in str(caught.value.remedy)


# The log


def test_the_log_is_json_lines_of_losses_and_epochs(tmp_path: Path) -> None:
    files = files_in(tmp_path / "below")
    train(small_network(), data_of(), options_of(epochs=4), files)
    rows = [json.loads(line) for line in files.log.read_text().splitlines()]
    losses = [row for row in rows if "loss" in row]
    assert [row["step"] for row in losses] == [10]
    assert losses[0].keys() == {"step", "loss", "top1", "learning_rate", "images_per_second"}
    assert losses[0]["learning_rate"] == learning_rate_at(9, 12, options_of(epochs=4))
    epochs = [row for row in rows if "epoch" in row]
    assert [(row["step"], row["epoch"]) for row in epochs] == [(3, 1), (6, 2), (9, 3), (12, 4)]
    assert all(0 <= row["validation_top1"] <= 1 for row in epochs)


def test_a_new_run_starts_a_new_log_and_a_resumed_one_goes_on(tmp_path: Path) -> None:
    files = files_in(tmp_path)
    files.log.write_text("an older run\n")
    resumed_run(tmp_path, options_of(), interrupting_at(4), KeyboardInterrupt)
    rows = [json.loads(line) for line in files.log.read_text().splitlines()]
    assert [row["epoch"] for row in rows if "epoch" in row] == [1, 2, 3]


# Interruptions


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"optimizer": "sgd"},
        {"head_only": True},
        {"head_only": True, "flip": False, "optimizer": "sgd"},
        {"density": 0.3},
        {"train_size": 71},
        {"precision": "bf16"},
        {"schedule": "cosine", "dropout": 0.0, "flip": False},
    ],
    ids=str,
)
def test_a_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(changes: dict[str, Any], tmp_path: Path) -> None:
    options = options_of(**changes)
    whole, result = whole_run(tmp_path / "whole", options)
    resumed, resumed_result = resumed_run(tmp_path / "resumed", options, interrupting_at(4), KeyboardInterrupt)
    assert_same_weights(resumed, whole)
    assert resumed_result.steps == result.steps == STEPS_PER_EPOCH * EPOCHS
    assert resumed_result.validation_top1 == result.validation_top1


@pytest.mark.parametrize("step", [1, STEPS_PER_EPOCH, STEPS_PER_EPOCH + 1, STEPS_PER_EPOCH * EPOCHS - 1])
def test_a_run_may_be_interrupted_at_any_step(step: int, tmp_path: Path) -> None:
    options = options_of(optimizer="sgd")
    whole, result = whole_run(tmp_path / "whole", options)
    resumed, resumed_result = resumed_run(tmp_path / "resumed", options, interrupting_at(step), KeyboardInterrupt)
    assert_same_weights(resumed, whole)
    assert resumed_result.validation_top1 == result.validation_top1


def test_a_run_interrupted_in_its_last_step_still_measures_its_last_accuracy(tmp_path: Path) -> None:
    options = options_of(head_only=True, learning_rate=3e-3)
    _, result = whole_run(tmp_path / "whole", options)
    last = STEPS_PER_EPOCH * EPOCHS
    _, resumed = resumed_run(tmp_path / "resumed", options, interrupting_at(last), KeyboardInterrupt)
    assert result.validation_top1 is not None
    assert resumed.validation_top1 == result.validation_top1
    rows = [json.loads(line) for line in files_in(tmp_path / "resumed").log.read_text().splitlines()]
    assert [row["epoch"] for row in rows if "epoch" in row] == [1, 2, 3]


def test_a_run_may_be_interrupted_twice(tmp_path: Path) -> None:
    options = options_of(head_only=True)
    whole, _ = whole_run(tmp_path / "whole", options)
    files = files_in(tmp_path / "resumed")
    for resume in (False, True):
        with pytest.raises(KeyboardInterrupt):
            train(small_network(), data_of(), options, files, voice=interrupting_at(3), resume=resume)
    resumed = small_network()
    train(resumed, data_of(), options, files, resume=True)
    assert_same_weights(resumed, whole)


def test_a_run_that_lost_power_goes_on_from_the_last_state_that_was_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = options_of(head_only=True)
    whole, _ = whole_run(tmp_path / "whole", options)
    monkeypatch.setattr(loop, "_SECONDS_BETWEEN_SAVES", -1.0)
    resumed, result = resumed_run(tmp_path / "resumed", options, losing_power_at(5), ZeroDivisionError)
    assert_same_weights(resumed, whole)
    assert result.steps == STEPS_PER_EPOCH * EPOCHS


def test_a_log_line_that_was_cut_in_half_does_not_stop_a_resumed_run(tmp_path: Path) -> None:
    options, files = options_of(head_only=True), files_in(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        train(small_network(), data_of(), options, files, voice=interrupting_at(4))
    with files.log.open("a") as log:
        log.write('{"step": 4, "lo')
    train(small_network(), data_of(), options, files, resume=True)
    rows = [json.loads(line) for line in files.log.read_text().splitlines()]
    assert [row["epoch"] for row in rows if "epoch" in row] == [1, 2, 3]


def test_what_was_logged_after_the_last_state_is_logged_once(tmp_path: Path) -> None:
    options, files = options_of(head_only=True, batch_size=2, epochs=1), files_in(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        train(small_network(), data_of(), options, files, voice=interrupting_at(5))
    state = files.state.read_bytes()
    train(small_network(), data_of(), options, files, resume=True)
    files.state.write_bytes(state)
    train(small_network(), data_of(), options, files, resume=True)
    rows = [json.loads(line) for line in files.log.read_text().splitlines()]
    assert [row["step"] for row in rows] == [10, 12]


def test_an_interruption_waits_for_its_step_and_is_then_forgotten(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    steps = []

    def act(done: int) -> None:
        steps.append(done)
        if done == 2:
            signal.raise_signal(signal.SIGINT)
            # It has not ended the step in the middle.
            steps.append(-done)

    with pytest.raises(KeyboardInterrupt):
        train(small_network(), data_of(), options_of(), files_in(tmp_path), voice=VoiceThatActs(act))
    assert steps == [1, 2, -2]
    assert signal.getsignal(signal.SIGINT) is before
    assert files_in(tmp_path).state.is_file()


def test_a_run_in_another_thread_leaves_signals_alone(tmp_path: Path) -> None:
    results: list[TrainingResult] = []
    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(
        target=lambda: results.append(train(small_network(), data_of(), options_of(epochs=1), files_in(tmp_path)))
    )
    thread.start()
    thread.join()
    assert [result.steps for result in results] == [STEPS_PER_EPOCH]
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize(
    "changes", [{"learning_rate": 1e-3}, {"seed": 3}, {"batch_size": 4}, {"epochs": 5}, {"head_only": True}]
)
def test_a_run_with_other_options_is_not_resumed(changes: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(small_network(), data_of(), options_of(), files_in(tmp_path), voice=interrupting_at(2))
    with pytest.raises(InputError, match="started with other options") as caught:
        train(small_network(), data_of(), options_of(**changes), files_in(tmp_path), resume=True)
    assert caught.value.expected
    assert caught.value.got != f"fingerprint {caught.value.expected}"


def test_a_run_of_another_network_or_on_other_images_is_not_resumed(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(small_network(), data_of(), options_of(), files_in(tmp_path), voice=interrupting_at(2))
    with pytest.raises(InputError, match="started with other options"):
        train(small_network("unpadded"), data_of(), options_of(), files_in(tmp_path), resume=True)
    with pytest.raises(InputError, match="started with other options"):
        train(small_network(), data_of(25), options_of(), files_in(tmp_path), resume=True)


@pytest.mark.parametrize("data", [None, b"", b"not a state", b"\x08\0\0\0\0\0\0\0{}      "])
def test_where_there_is_no_state_there_is_nothing_to_resume(data: bytes | None, tmp_path: Path) -> None:
    if data is not None:
        files_in(tmp_path).state.write_bytes(data)
    with pytest.raises(InputError, match="there is no run to resume") as caught:
        train(small_network(), data_of(), options_of(), files_in(tmp_path), resume=True)
    assert "--resume" in str(caught.value.remedy)


def test_a_state_that_was_cut_short_is_not_resumed(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(small_network(), data_of(), options_of(), files_in(tmp_path), voice=interrupting_at(2))
    state = files_in(tmp_path).state
    state.write_bytes(state.read_bytes()[:-100])
    with pytest.raises(InputError, match="there is no run to resume"):
        train(small_network(), data_of(), options_of(), files_in(tmp_path), resume=True)


# Damaged images


def test_a_batch_that_is_larger_than_the_set_counts_the_images_that_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    speeds = []
    for size in (5, 64):
        monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=itertools.count().__next__))
        (tmp_path / str(size)).mkdir()
        options = options_of(batch_size=size, epochs=10)
        result = train(small_network(), data_of(5, 0), options, files_in(tmp_path / str(size)))
        rows = [json.loads(line) for line in files_in(tmp_path / str(size)).log.read_text().splitlines()]
        speeds.append((result.images_per_second, [row["images_per_second"] for row in rows if "loss" in row]))
    assert speeds[0] == speeds[1]
    assert speeds[0][1]


class Damaged(ImageSource):
    """Another source in which some images cannot be read."""

    def __init__(self, source: ImageSource, bad: set[int]) -> None:
        self.source, self.bad = source, bad
        self.name, self.classes, self.labels = source.name, source.classes, source.labels

    def image(self, index: int) -> NDArray[np.uint8]:
        if index in self.bad:
            raise ImageError(f"{index}.jpg cannot be read as an image")
        return self.source.image(index)


def damaged(bad: set[int], count: int = 24) -> TrainingData:
    return TrainingData(train=Damaged(random_images(count), bad), validation=None, preprocessing=small_preprocessing())


def test_a_damaged_image_ends_the_run_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"7\.jpg"):
        train(small_network(), damaged({7}), options_of(), files_in(tmp_path))


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that comes to the end of an epoch far too often will never end."""
    ends = []
    original = loop._Run._end_epoch

    def counted(self: Any, log: Any, recent: Any) -> None:
        ends.append(self.step)
        assert len(ends) < 20, f"it goes round and round at step {self.step}"
        original(self, log, recent)

    monkeypatch.setattr(loop._Run, "_end_epoch", counted)


@pytest.mark.usefixtures("_impatient")
@pytest.mark.parametrize("bad", [{7}, {0, 5, 6, 23}])
def test_damaged_images_may_be_left_out(bad: set[int], tmp_path: Path) -> None:
    result = train(small_network(), damaged(bad), options_of(), files_in(tmp_path), skip_bad=True)
    assert result.steps >= 2 * EPOCHS
    # Each once, in however many epochs it was met.
    assert sorted(int(name.split(".")[0]) for name in result.skipped.names) == sorted(bad)


@pytest.mark.usefixtures("_impatient")
def test_damaged_images_may_be_left_out_of_the_head_alone(tmp_path: Path) -> None:
    options = options_of(head_only=True)
    result = train(small_network(), damaged({7}), options, files_in(tmp_path), skip_bad=True)
    assert [int(name.split(".")[0]) for name in result.skipped.names] == [7]


@pytest.mark.usefixtures("_impatient")
def test_where_every_image_is_damaged_the_run_ends_with_an_error(tmp_path: Path) -> None:
    with pytest.raises((TrainingError, DataError)):
        train(small_network(), damaged(set(range(24))), options_of(), files_in(tmp_path), skip_bad=True)


@pytest.mark.usefixtures("_impatient")
@pytest.mark.parametrize("bad", [0, 1, 2])
def test_a_damaged_image_that_fills_a_batch_does_not_stop_the_run(bad: int, tmp_path: Path) -> None:
    options = options_of(batch_size=1, epochs=2)
    result = train(small_network(), damaged({bad}, count=3), options, files_in(tmp_path), skip_bad=True)
    assert result.skipped.names


@pytest.mark.usefixtures("_impatient")
@pytest.mark.parametrize("after", [1, 2, 3, 4])
def test_a_run_goes_on_where_it_was_after_a_batch_that_was_damaged_as_a_whole(after: int, tmp_path: Path) -> None:
    options = options_of(batch_size=1, epochs=2)
    data = damaged({int(epoch_order(options.seed, 0, 6)[1])}, count=6)
    whole, parts = small_network(), small_network()
    train(whole, data, options, files_in(tmp_path), skip_bad=True)
    (tmp_path / "parts").mkdir()
    files = files_in(tmp_path / "parts")
    with pytest.raises(KeyboardInterrupt):
        train(parts, data, options, files, skip_bad=True, voice=interrupting_at(after))
    parts = small_network()
    train(parts, data, options, files, skip_bad=True, resume=True)
    assert_same_weights(whole, parts)


def test_damaged_images_count_neither_as_right_nor_as_wrong(tmp_path: Path) -> None:
    found = []
    images, bad = random_images(30, seed=5), {1, 2, 3, 10, 20}
    good = images.subset([index for index in range(len(images)) if index not in bad])
    for name, validation in (("damaged", Damaged(images, bad)), ("good", good)):
        (tmp_path / name).mkdir()
        data = TrainingData(train=random_images(24), validation=validation, preprocessing=small_preprocessing())
        result = train(small_network(), data, options_of(), files_in(tmp_path / name), skip_bad=True)
        found.append(result.validation_top1)
    assert found[0] == found[1] is not None


# The split


def test_the_split_shares_nothing_and_loses_nothing() -> None:
    source = random_images(50)
    training, validation, left_out = split_for_training(source, 0.2, 0, frozenset())
    assert validation is not None
    assert (len(training), len(validation), left_out) == (40, 10, 0)
    one = {training.content_hash(i) for i in range(40)}
    other = {validation.content_hash(i) for i in range(10)}
    assert not one & other
    assert one | other == {source.content_hash(i) for i in range(50)}


def test_the_split_is_drawn_by_the_seed() -> None:
    source = random_images(50)

    def held_out(seed: int) -> Any:
        validation = split_for_training(source, 0.2, seed, frozenset())[1]
        assert validation is not None
        return validation.labels.tolist()

    assert held_out(1) == held_out(1) != held_out(2)


def test_without_a_share_nothing_is_held_out() -> None:
    training, validation, _ = split_for_training(random_images(9), 0.0, 0, frozenset())
    assert validation is None
    assert len(training) == 9


def test_images_of_guards_and_evaluations_are_left_out_of_both_sides() -> None:
    source = random_images(50)
    forbidden = frozenset(source.content_hash(i) for i in range(0, 50, 5))
    training, validation, left_out = split_for_training(source, 0.25, 0, forbidden | {"of another set"})
    assert validation is not None
    assert (len(training), len(validation), left_out) == (30, 10, 10)
    seen = {part.content_hash(i) for part in (training, validation) for i in range(len(part))}
    assert not seen & forbidden


def test_where_nothing_is_left_to_train_on_the_run_is_refused() -> None:
    source = random_images(4)
    with pytest.raises(TrainingError, match="too few images"):
        split_for_training(source, 0.0, 0, frozenset(source.content_hash(i) for i in range(4)))
