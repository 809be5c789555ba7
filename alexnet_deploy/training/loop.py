"""The training loop: from a network and labelled images to a better network, resumable at any step."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from alexnet_deploy.data.batches import Skipped, batches, undamaged
from alexnet_deploy.data.preprocessing import resized
from alexnet_deploy.data.sources import ImageSource
from alexnet_deploy.errors import DivergedError, InputError, RankLostError, TrainingError
from alexnet_deploy.interrupts import Stopped, StopRequest, stoppable
from alexnet_deploy.limits import json_from_text
from alexnet_deploy.machine import cpu_flags, keep_freed_memory
from alexnet_deploy.network import AlexNet
from alexnet_deploy.progress import SILENT, Track, Voice
from alexnet_deploy.specs import Preprocessing, fingerprint
from alexnet_deploy.training.feed import CHUNK, Feed, StepBatch, chunks_of, features_from_trunk
from alexnet_deploy.training.log import Log, log_after
from alexnet_deploy.training.options import TrainingOptions
from alexnet_deploy.training.ranks import Exchanged, Ranks
from alexnet_deploy.training.state import launchers_of, load_state, load_weights, save_state
from alexnet_deploy.training.step import Stepper
from alexnet_deploy.variants import layers_from_network

_SECONDS_BETWEEN_SAVES = 300.0
_STEPS_BETWEEN_LOG_LINES = 10
# Of damaged images, with the longest paths there are; processes send each other texts of a megabyte at most.
_NAMES_AT_ONCE = 40


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
    ranks: Ranks | None = None,
    accumulate: int = 1,
) -> TrainingResult:
    """Trains `network` in place.

    SIGINT ends the run after the current step, with its state written; a second run with `resume` goes on from
    there and ends with the same weights as an uninterrupted one on the same machine. What a torchrun starts again goes
    on with the state that this same torchrun has left, with `resume` or without.

    Args:
        network: What is trained; the same on all processes.
        data: The images; the same on all processes.
        options: What is learnt, and how. The batch size is that of all processes and parts together.
        files: Written by the first process alone.
        resume: Go on from the state on disk, which may be of another number of processes and parts.
        skip_bad: Leave out damaged images.
        voice: Hears the news.
        ranks: The processes that train together; None trains alone.
        accumulate: Parts in which a process takes its share of a batch.

    Raises:
        KeyboardInterrupt: One of the processes was interrupted; the state is on disk.
        DivergedError: The loss is not finite; the network has the weights of the last state that was kept.
        TrainingError: There are too few images.
        RankError: Another process could not go on, or is gone.
    """
    keep_freed_memory()
    ranks = ranks or Ranks()
    voice = ranks.voice(voice)
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
    run = _Run(network, data, options, files, voice, skipped, ranks, accumulate)
    if run.begun() or resume:
        run.resume()
    run.join()
    try:
        return run.run()
    except DivergedError as exc:
        if ranks.first:
            exc.last_good = run.restore_weights()
        raise
    except RankLostError:
        with ranks.undisturbed():
            run.keep()
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
        ranks: Ranks,
        accumulate: int,
    ) -> None:
        self.ranks, self.device = ranks, ranks.device
        self.network = network.to(self.device).to(memory_format=torch.channels_last)
        self.data, self.options, self.files, self.voice, self.skipped = data, options, files, voice, skipped
        self.network.any_size = options.train_size is not None
        self.preprocessing = resized(data.preprocessing, options.train_size or data.preprocessing.image_size)
        self.feed = Feed(data.train, self.preprocessing, options, ranks, accumulate, skipped)
        voice.say(self.feed.describe())
        self.steps_per_epoch = self.feed.steps_per_epoch
        self.total_steps = options.epochs * self.steps_per_epoch
        self.step, self.validation_top1, self.launchers = 0, None, list[str]()
        self.saved = time.monotonic()
        self.stepper = Stepper(
            network, options, ranks, accumulate=accumulate, total_steps=self.total_steps,
            bf16=uses_bf16(options.precision, self.device.type),
        )  # fmt: skip
        self.fingerprint = fingerprint(
            [options.to_json(), network.spec.to_json(), data.preprocessing.to_json(), len(data.train)]
        )

    validation_top1: float | None

    def begun(self) -> bool:
        """Whether one of the torchruns that started these processes has left the state on disk.

        All processes ask, whatever they know themselves: machines come and go, and of a run's torchruns only some may
        have been there before.
        """
        self.launchers = sorted({launcher for launcher in self.ranks.gathered(self.ranks.launcher) if launcher})
        left = self.ranks.first and not launchers_of(self.files.state).isdisjoint(self.launchers)
        return self.ranks.exchange(float(left)).sums[0] > 0

    def resume(self) -> None:
        position = load_state(self.files.state, self.network, self.stepper.optimizer, self.fingerprint, self.ranks)
        self.step, self.validation_top1 = position["step"], position["validation_top1"]
        self.stepper.resume()
        self.voice.say(f"resumed at step {self.step} of {self.total_steps}")

    def join(self) -> None:
        """Makes sure that all processes are of one run, and gives their gradients one mean."""
        # 48 bits, which a float holds; the labels tell apart folders with other images or another order.
        own = int(fingerprint([self.fingerprint, zlib.crc32(self.data.train.labels.tobytes()), self.step])[:12], 16)
        known = float(own if self.ranks.first else 0)
        if self._differs(self.ranks.exchange(known).sums[0] != own):
            raise InputError(
                "the processes are not of one run",
                expected="the same options, model and images on every one",
                remedy="start all of them with the same command, where the same files are",
            )
        self.stepper.join()

    def _differs(self, own: bool) -> bool:
        return self.ranks.exchange(float(own)).sums[0] > 0

    def keep(self) -> None:
        """Saves what this process knows after others are gone; the end of an epoch is not known without them."""
        if self.ranks.first and self.step % self.steps_per_epoch:
            self._write_state()

    def restore_weights(self) -> int | None:
        """Puts the network back to the state on disk; returns its step, or None where this run has kept none."""
        return load_weights(self.files.state, self.network, self.fingerprint) if self.files.state.is_file() else None

    def run(self) -> TrainingResult:
        started, first = time.monotonic(), self.step
        if self.options.head_only:
            self.feed.features = features_from_trunk(
                self.network, self.data.train, self.data.preprocessing, self.ranks, flip=self.options.flip,
                voice=self.voice,
            )  # fmt: skip
        self.network.train()
        self.saved = time.monotonic()
        recent: deque[tuple[float, float]] = deque(maxlen=_STEPS_BETWEEN_LOG_LINES)
        text = "interrupted: training stops after this step; once more stops at once"
        remedy = "everything is kept; the same command with --resume goes on from there"
        with stoppable(self.voice.warn, text, remedy=remedy) as stop, self._track() as track, self._log() as log:
            while self.step < self.total_steps:
                end = (self.step // self.steps_per_epoch + 1) * self.steps_per_epoch
                signal, learnt = 0, False
                for batch in self.feed.steps(*divmod(self.step, self.steps_per_epoch)):
                    told = self._step(batch, stop)
                    if told.sums[2]:
                        learnt = True
                        recent.append((told.sums[0] / told.sums[2], told.sums[1] / told.sums[2]))
                        self._report(track, log, recent, time.monotonic() - started, first)
                    signal = self.ranks.signal(stop, told.signal)
                    if signal or told.sums[3]:
                        self._save()
                    if signal and self.step < end:
                        raise Stopped(signal, remedy)
                if not learnt:
                    raise TrainingError("no image of the epoch can be read", remedy="check the data")
                signal = self._validate(stop) or signal
                self._end_epoch(log, recent)
                signal = self.ranks.signal(stop, signal)
                if signal:
                    raise Stopped(signal, remedy)
        self.network.eval()
        self.network.any_size = False
        seconds = max(time.monotonic() - started, 1e-9)
        return TrainingResult(
            steps=self.step,
            images_per_second=(self.step - first) * self.feed.batch / seconds,
            validation_top1=self.validation_top1,
            skipped=self._all_skipped(),
        )

    def _step(self, batch: StepBatch, stop: StopRequest) -> Exchanged:
        # The clock of one process decides for all.
        due = self.ranks.first and time.monotonic() - self.saved > _SECONDS_BETWEEN_SAVES
        told = self.stepper.step(batch, self.step, stop, due)
        # Of a batch in which every image is damaged too: the step says where in the epoch a run goes on.
        self.step += 1
        return told

    @torch.no_grad()
    def _validate(self, stop: StopRequest) -> int:
        """Measures the accuracy, each process on some of the images; returns the signal that all obey."""
        validation = self.data.validation
        if validation is None:
            return 0
        self.network.eval()
        cut = chunks_of(len(validation), self.ranks.rank, self.ranks.size)
        own, right, seen, failure = np.arange(len(validation), dtype=np.int64)[cut], 0, 0, None
        try:
            for batch in batches(
                validation, CHUNK, self.preprocessing, indices=own, skipped=self.skipped, threads=self.feed.threads
            ):
                logits = self.network(torch.from_numpy(batch.images).to(self.device))
                right += int((logits.argmax(1).cpu().numpy() == batch.labels).sum())
                seen += len(batch.labels)
        except Exception as exc:  # as above
            failure = exc
        told = self.ranks.exchange(right, seen, signal=stop.number, failure=failure)
        self.network.train()
        self.validation_top1 = told.sums[0] / told.sums[1] if told.sums[1] else None
        return told.signal

    def _end_epoch(self, log: Log, recent: Sequence[tuple[float, float]]) -> None:
        epoch = self.step // self.steps_per_epoch
        log.write(step=self.step, epoch=epoch, validation_top1=self.validation_top1)
        accuracy = "" if self.validation_top1 is None else f", validation top-1 {self.validation_top1:.4f}"
        self.voice.say(f"epoch {epoch}: loss {sum(loss for loss, _ in recent) / len(recent):.4f}{accuracy}")
        self._save()

    def _save(self) -> None:
        with self.ranks.together():
            if self.ranks.first:
                self._write_state()
        self.saved = time.monotonic()

    def _write_state(self) -> None:
        # What the last step did to the weights shows in the next loss; the state on disk must be a good one.
        broken = [name for name, tensor in self.network.state_dict().items() if not bool(tensor.isfinite().all())]
        if broken:
            raise DivergedError(f"{broken[0]} is not finite after step {self.step}", remedy="lower --learning-rate")
        position = {
            "step": self.step,
            "validation_top1": self.validation_top1,
            "fingerprint": self.fingerprint,
            "launchers": self.launchers,
        }
        save_state(self.files.state, self.network, self.stepper.optimizer, position)

    def _all_skipped(self) -> Skipped:
        """The damaged images that any of the processes met."""
        found, own = Skipped(), self.skipped.names if self.skipped else []
        rounds = max(int(text) for text in self.ranks.gathered(str(-(-len(own) // _NAMES_AT_ONCE))))
        for at in range(0, rounds * _NAMES_AT_ONCE, _NAMES_AT_ONCE):
            for names in self.ranks.gathered(json.dumps(own[at : at + _NAMES_AT_ONCE])):
                for name in json_from_text(names):
                    found.note(name)
        return found

    def _report(
        self, track: Track, log: Log, recent: Sequence[tuple[float, float]], seconds: float, first: int
    ) -> None:
        speed = (self.step - first) * self.feed.batch / seconds
        loss, accuracy = (sum(values) / len(recent) for values in zip(*recent, strict=True))
        track.advance(1, f"loss {loss:.3f}, top-1 {accuracy:.3f}, {speed:.0f} images/s")
        if self.step % _STEPS_BETWEEN_LOG_LINES == 0:
            rate = self.stepper.optimizer.param_groups[0]["lr"]
            log.write(
                step=self.step,
                loss=round(loss, 5),
                top1=round(accuracy, 4),
                learning_rate=rate,
                images_per_second=round(speed, 2),
            )

    @contextlib.contextmanager
    def _track(self) -> Iterator[Track]:
        with self.voice.track("train", self.total_steps, self.step) as track:
            yield track

    @contextlib.contextmanager
    def _log(self) -> Iterator[Log]:
        if not self.ranks.first:
            yield Log(None)
            return
        with log_after(self.files.log, self.step) as log:
            yield log
