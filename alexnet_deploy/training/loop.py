"""The training loop: from a network and labelled images to a better network, resumable at any step."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from alexnet_deploy.data.batches import Skipped, batches, undamaged
from alexnet_deploy.data.preprocessing import resized
from alexnet_deploy.data.sources import ImageSource
from alexnet_deploy.errors import DivergedError, TrainingError
from alexnet_deploy.files import write_bytes
from alexnet_deploy.interrupts import stoppable
from alexnet_deploy.machine import cpu_flags, keep_freed_memory
from alexnet_deploy.network import AlexNet
from alexnet_deploy.progress import SILENT, Track, Voice
from alexnet_deploy.specs import Preprocessing, fingerprint
from alexnet_deploy.training.options import TrainingOptions, learning_rate_at
from alexnet_deploy.training.pruning import Pruner
from alexnet_deploy.training.state import load_state, load_weights, save_state
from alexnet_deploy.variants import layers_from_network

_SECONDS_BETWEEN_SAVES = 300.0
_STEPS_BETWEEN_LOG_LINES = 10
# Any odd multiplier keeps the seeds of neighbouring steps apart.
_SEED_STRIDE = 1_000_003
# Features of the frozen trunk are kept in memory in FP16.
_MAX_FEATURE_BYTES = 8_000_000_000


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """Images to learn from and images to check against, which share none."""

    train: ImageSource
    validation: ImageSource | None
    preprocessing: Preprocessing


@dataclass(frozen=True, kw_only=True)
class TrainingFiles:
    """Where a run keeps its state and its log (JSON lines)."""

    state: Path
    log: Path


@dataclass(kw_only=True)
class TrainingResult:
    """What a run ended with; accuracies are fractions, None without a validation set."""

    steps: int
    images_per_second: float
    validation_top1: float | None
    skipped: Skipped = field(default_factory=Skipped)


def split_for_training(
    source: ImageSource, share: float, seed: int, forbidden: frozenset[str]
) -> tuple[ImageSource, ImageSource | None, int]:
    """Splits a source into training and validation images, leaving out images that must not be trained on.

    Args:
        source: All the images.
        share: Share for validation.
        seed: Draws the split.
        forbidden: Content hashes of images that guards and evaluations use.

    Returns:
        Training images, validation images (None where the share is 0), and how many were left out.
    """
    order = np.random.default_rng(seed).permutation(len(source))
    allowed = [int(i) for i in order if not forbidden or source.content_hash(int(i)) not in forbidden]
    held_out = round(share * len(allowed))
    if held_out >= len(allowed):
        raise TrainingError("there are too few images to train on", got=f"{len(allowed)}, {held_out} of them held out")
    validation = source.subset(sorted(allowed[:held_out])) if held_out else None
    return source.subset(sorted(allowed[held_out:])), validation, len(source) - len(allowed)


def train(
    network: AlexNet,
    data: TrainingData,
    options: TrainingOptions,
    files: TrainingFiles,
    *,
    resume: bool = False,
    skip_bad: bool = False,
    voice: Voice = SILENT,
) -> TrainingResult:
    """Trains `network` in place.

    SIGINT ends the run after the current step, with its state written; a second run with `resume` goes on from
    there and ends with the same weights as an uninterrupted one on the same machine.

    Raises:
        KeyboardInterrupt: It was interrupted; the state is on disk.
        DivergedError: The loss is not finite; the network has the weights of the last state that was kept.
        TrainingError: There are too few images.
    """
    keep_freed_memory()
    skipped = Skipped() if skip_bad else None
    if options.train_size is not None:
        # Raises where the images are too small for the strides and pools.
        layers_from_network(dataclasses.replace(network.spec, image_size=options.train_size))
    if options.head_only and skipped is not None:
        # The features are computed once, so that the damaged images have to be known before.
        kept = undamaged(data.train, skipped)
        if not len(kept):
            raise TrainingError("no image can be read", remedy="check the data")
        data = dataclasses.replace(data, train=data.train.subset(kept, data.train.name))
    run = _Run(network, data, options, files, voice, skipped)
    if resume:
        run.resume()
    try:
        return run.run()
    except DivergedError as exc:
        exc.last_good = run.restore_weights()
        raise


def uses_bf16(precision: str, device_type: str) -> bool:
    """Whether to autocast: where asked, or where the CPU or GPU has bf16 multipliers."""
    if precision != "auto":
        return precision == "bf16"
    if device_type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(cpu_flags() & {"avx512_bf16", "amx_bf16"})


class _Run:
    def __init__(
        self,
        network: AlexNet,
        data: TrainingData,
        options: TrainingOptions,
        files: TrainingFiles,
        voice: Voice,
        skipped: Skipped | None,
    ) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.network = network.to(self.device).to(memory_format=torch.channels_last)
        self.data, self.options, self.files, self.voice, self.skipped = data, options, files, voice, skipped
        self.network.any_size = options.train_size is not None
        self.preprocessing = resized(data.preprocessing, options.train_size or data.preprocessing.image_size)
        self.steps_per_epoch = max(1, len(data.train) // options.batch_size)
        self.total_steps = options.epochs * self.steps_per_epoch
        self.step, self.validation_top1 = 0, None
        self.bf16 = uses_bf16(options.precision, self.device.type)
        for module in network.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = options.dropout
        self.parameters = list(network.parameters())
        if options.head_only:
            for parameter in self.parameters:
                parameter.requires_grad_(False)
            self.parameters = [p for n, p in network.named_parameters() if n.startswith("fc")]
            for parameter in self.parameters:
                parameter.requires_grad_(True)
        self.optimizer = self._optimizer()
        self.pruner = Pruner(network, options.density, self.total_steps)
        self.features: tuple[Tensor, Tensor] | None = None
        self.fingerprint = fingerprint(
            [options.to_json(), network.spec.to_json(), data.preprocessing.to_json(), len(data.train)]
        )

    validation_top1: float | None

    def _optimizer(self) -> torch.optim.Optimizer:
        options, fused = self.options, self.device.type == "cpu"
        # Biases are not decayed; they are few and have no scale to shrink to.
        weights = [p for p in self.parameters if p.dim() > 1]
        biases = [p for p in self.parameters if p.dim() == 1]
        groups = [
            {"params": weights, "weight_decay": options.weight_decay},
            {"params": biases, "weight_decay": 0.0},
        ]
        if options.optimizer == "sgd":
            return torch.optim.SGD(groups, lr=options.learning_rate, momentum=0.9, nesterov=True, foreach=True)
        return torch.optim.AdamW(groups, lr=options.learning_rate, betas=(0.9, 0.98), fused=fused)

    def resume(self) -> None:
        position = load_state(self.files.state, self.network, self.optimizer, self.fingerprint)
        self.step, self.validation_top1 = position["step"], position["validation_top1"]
        self.pruner = Pruner(self.network, self.options.density, self.total_steps)
        self.voice.say(f"resumed at step {self.step} of {self.total_steps}")

    def restore_weights(self) -> int | None:
        """Puts the network back to the state on disk; returns its step, or None where this run has kept none."""
        return load_weights(self.files.state, self.network, self.fingerprint) if self.files.state.is_file() else None

    def run(self) -> TrainingResult:
        started, first = time.monotonic(), self.step
        if self.options.head_only:
            self.features = self._frozen_features()
        self.network.train()
        saved = time.monotonic()
        recent: deque[tuple[float, float]] = deque(maxlen=_STEPS_BETWEEN_LOG_LINES)
        text = "interrupted: training stops after this step; once more stops at once"
        remedy = "everything is kept; the same command with --resume goes on from there"
        with stoppable(self.voice.warn, text, remedy=remedy) as stop, self._track() as track, self._log() as log:
            while self.step < self.total_steps:
                before, end = self.step, (self.step // self.steps_per_epoch + 1) * self.steps_per_epoch
                for images, labels in self._epoch():
                    loss, accuracy = self._step(images, labels)
                    recent.append((loss, accuracy))
                    self._report(track, log, recent, time.monotonic() - started, first)
                    if stop or time.monotonic() - saved > _SECONDS_BETWEEN_SAVES:
                        self._save()
                        saved = time.monotonic()
                    if self.step < end:
                        stop.obey()
                if self.step == before:
                    raise TrainingError("no image of the epoch can be read", remedy="check the data")
                # Batches in which every image was damaged were passed over.
                self.step = end
                self.validation_top1 = self._validate()
                self._end_epoch(log)
                stop.obey()
        self.network.eval()
        self.network.any_size = False
        seconds = max(time.monotonic() - started, 1e-9)
        return TrainingResult(
            steps=self.step,
            images_per_second=(self.step - first) * self.options.batch_size / seconds,
            validation_top1=self.validation_top1,
            skipped=self.skipped or Skipped(),
        )

    def _step(self, images: Tensor, labels: Tensor) -> tuple[float, float]:
        torch.manual_seed(self.options.seed * _SEED_STRIDE + self.step)
        rate = learning_rate_at(self.step, self.total_steps, self.options)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            logits = self.network.head(images) if self.options.head_only else self.network(images)
        loss = F.cross_entropy(logits.float(), labels, label_smoothing=self.options.label_smoothing)
        value = loss.item()
        if not np.isfinite(value):
            raise DivergedError(f"the loss is {value} at step {self.step}", remedy="lower --learning-rate")
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.parameters, self.options.clip_norm)
        self.optimizer.step()
        self.pruner.after_step(self.step)
        self.step += 1
        return value, float((logits.argmax(1) == labels).float().mean())

    def _epoch(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The rest of the current epoch, in the order that seed and epoch give."""
        epoch, done = divmod(self.step, self.steps_per_epoch)
        random = np.random.default_rng([self.options.seed, epoch])
        order = random.permutation(len(self.data.train))
        flips = random.random(len(order)) < (0.5 if self.options.flip else 0.0)
        size = self.options.batch_size
        part = slice(done * size, self.steps_per_epoch * size)
        if self.features is not None:
            plain, flipped = self.features
            labels = torch.from_numpy(self.data.train.labels)
            for start in range(part.start, part.stop, size):
                chosen = torch.from_numpy(order[start : start + size])
                mirror = torch.from_numpy(flips[start : start + size])
                rows = torch.where(mirror[:, None], flipped[chosen], plain[chosen])
                yield rows.float().to(self.device), labels[chosen].to(self.device)
            return
        for batch in batches(
            self.data.train, size, self.preprocessing, indices=order[part], flips=flips[part], skipped=self.skipped
        ):
            images = torch.from_numpy(batch.images).to(self.device, memory_format=torch.channels_last)
            yield images, torch.from_numpy(batch.labels).to(self.device)

    @torch.no_grad()
    def _frozen_features(self) -> tuple[Tensor, Tensor]:
        source = self.data.train
        width = math.prod(self.network.feature_shape)
        needed = 2 * 2 * len(source) * width
        if needed > _MAX_FEATURE_BYTES:
            raise TrainingError(
                "the features of the frozen trunk do not fit in memory",
                got=f"{needed / 1e9:.1f} GB",
                expected=f"at most {_MAX_FEATURE_BYTES / 1e9:.0f} GB",
                remedy="train on fewer images, or without --head-only",
            )
        self.network.eval()
        both = [torch.empty(len(source), width, dtype=torch.float16) for _ in range(2 if self.options.flip else 1)]
        with self.voice.track("features", len(source) * len(both)) as track:
            for flipped, rows in enumerate(both):
                start = 0
                flips = np.full(len(source), bool(flipped))
                for batch in batches(source, 100, self.data.preprocessing, flips=flips):
                    images = torch.from_numpy(batch.images).to(self.device, memory_format=torch.channels_last)
                    rows[start : start + len(images)] = self.network.features(images).half().cpu()
                    start += len(images)
                    track.advance(len(images))
        return both[0], both[-1]

    @torch.no_grad()
    def _validate(self) -> float | None:
        if self.data.validation is None:
            return None
        self.network.eval()
        right = 0
        for batch in batches(self.data.validation, 100, self.preprocessing, skipped=self.skipped):
            logits = self.network(torch.from_numpy(batch.images).to(self.device))
            right += int((logits.argmax(1).cpu().numpy() == batch.labels).sum())
        self.network.train()
        return right / len(self.data.validation)

    def _end_epoch(self, log: _Log) -> None:
        epoch = self.step // self.steps_per_epoch
        log.write(step=self.step, epoch=epoch, validation_top1=self.validation_top1)
        if self.validation_top1 is not None:
            self.voice.say(f"epoch {epoch}: validation top-1 {self.validation_top1:.4f}")
        self._save()

    def _save(self) -> None:
        # What the last step did to the weights shows in the next loss; the state on disk must be a good one.
        broken = [name for name, tensor in self.network.state_dict().items() if not bool(tensor.isfinite().all())]
        if broken:
            raise DivergedError(f"{broken[0]} is not finite after step {self.step}", remedy="lower --learning-rate")
        position = {"step": self.step, "validation_top1": self.validation_top1, "fingerprint": self.fingerprint}
        save_state(self.files.state, self.network, self.optimizer, position)

    def _report(
        self, track: Track, log: _Log, recent: Sequence[tuple[float, float]], seconds: float, first: int
    ) -> None:
        speed = (self.step - first) * self.options.batch_size / seconds
        loss, accuracy = (sum(values) / len(recent) for values in zip(*recent, strict=True))
        track.advance(1, f"loss {loss:.3f}, top-1 {accuracy:.3f}, {speed:.0f} images/s")
        if self.step % _STEPS_BETWEEN_LOG_LINES == 0:
            rate = self.optimizer.param_groups[0]["lr"]
            log.write(
                step=self.step,
                loss=round(loss, 5),
                top1=round(accuracy, 4),
                learning_rate=rate,
                images_per_second=round(speed, 2),
            )

    @contextmanager
    def _track(self) -> Iterator[Track]:
        with self.voice.track("train", self.total_steps, self.step) as track:
            yield track

    @contextmanager
    def _log(self) -> Iterator[_Log]:
        self.files.log.parent.mkdir(parents=True, exist_ok=True)
        # Lines past the saved state will be written again.
        lines = self.files.log.read_text().splitlines(keepends=True) if self.step and self.files.log.exists() else []
        write_bytes(self.files.log, "".join(line for line in lines if _logged_step(line) <= self.step).encode())
        with self.files.log.open("a") as file:
            yield _Log(file)


def _logged_step(line: str) -> float:
    """Step of a log line; infinite for one that was cut short."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf


class _Log:
    def __init__(self, file: Any) -> None:
        self._file = file

    def write(self, **values: object) -> None:
        self._file.write(json.dumps(values) + "\n")
        self._file.flush()
