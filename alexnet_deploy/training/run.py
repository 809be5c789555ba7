"""From a data source to a checkpoint: opens the images, makes or opens the network, trains, writes."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from alexnet_deploy.artifacts import write_artifact
from alexnet_deploy.data.batches import say_notes, say_skipped
from alexnet_deploy.data.catalog import open_data
from alexnet_deploy.data.shipped import Split, shipped_hashes
from alexnet_deploy.data.sources import ArraySource, ImageSource
from alexnet_deploy.errors import DivergedError, InputError
from alexnet_deploy.files import atomic_path, require_writable
from alexnet_deploy.locks import locked
from alexnet_deploy.machine import tool_versions
from alexnet_deploy.network import AlexNet, initialize
from alexnet_deploy.progress import SILENT, Voice
from alexnet_deploy.specs import Preprocessing, Resize, fingerprint
from alexnet_deploy.training.loop import TrainingData, TrainingFiles, TrainingResult, split_for_training, train
from alexnet_deploy.training.options import TrainingOptions
from alexnet_deploy.training.ranks import Ranks
from alexnet_deploy.variants import NetworkSpec
from alexnet_deploy.weights import ModelInfo, encoded_checkpoint, load_model, require_checkpoint_name

# Of 100 images at 90 % the standard error of top-1 is three points.
_FEW_HELD_OUT = 100


@dataclass(frozen=True, kw_only=True)
class TrainingRequest:
    """What `alexnet-deploy train` was asked for.

    Attributes:
        data: As `open_data` takes it.
        model: A checkpoint to start from; None starts from random weights.
        variant: Of a new network (`paper` by default), or of weights that do not say.
        width, image_size: Of a new network; image_size 0 is the variant's own.
        output: Where the checkpoint goes.
        half: Store FP16.
        accumulate: Parts in which a process takes its share of a batch.
    """

    data: str
    output: Path
    model: str | None = None
    variant: str | None = None
    width: float = 1.0
    image_size: int = 0
    download: bool = False
    half: bool = False
    skip_bad: bool = False
    resume: bool = False
    accumulate: int = 1
    options: TrainingOptions = dataclasses.field(default_factory=TrainingOptions)


def checkpoint_from_data(request: TrainingRequest, *, ranks: Ranks | None = None, voice: Voice = SILENT) -> Path:
    """Trains and writes a checkpoint with its passport; log and curve lie beside it.

    Args:
        request: The same on all processes, and so are the files that it names.
        ranks: The processes that train together, of which the first one writes; None trains alone.
        voice: Hears the news, on the first process.

    Raises:
        InputError: The data or the model is not there, or `resume` finds nothing to resume.
        KeyboardInterrupt: Interrupted; `resume` goes on.
        RankError: Another process could not go on, or is gone.
    """
    ranks = ranks or Ranks()
    voice = ranks.voice(voice)
    require_checkpoint_name(request.output)
    with ranks.together():
        if ranks.first:
            require_writable(request.output.parent)
    source = _source(request, ranks)
    say_notes(source, voice)
    with ranks.together():
        network, info = _start(request, source)
        data, left_out = _split(request, source, info)
    _say_what(data, network, left_out, voice)
    with contextlib.ExitStack() as lock:
        with ranks.together():
            if ranks.first:
                lock.enter_context(locked(request.output, voice))
        result = _trained(request, network, info, data, ranks, voice)
        with ranks.together():
            if ranks.first:
                _write(request, network, info, result, data.train, ranks)
    say_skipped(result.skipped.names, voice)
    if ranks.first:
        voice.say(f"wrote {request.output} ({request.output.stat().st_size / 1e6:.1f} MB)")
        voice.say(f"the other commands take it with --model {request.output}")
    return request.output


def _source(request: TrainingRequest, ranks: Ranks) -> ImageSource:
    """The images; the first process fetches them before the others look."""
    found: list[ImageSource] = []
    with ranks.together():
        if ranks.first:
            found.append(open_data(request.data, "train", download=request.download))
    with ranks.together():
        if not ranks.first:
            found.append(open_data(request.data, "train"))
    return found[0]


def _split(request: TrainingRequest, source: ImageSource, info: ModelInfo) -> tuple[TrainingData, int]:
    options = request.options
    # Guards and evaluations measure on these; an image that was trained on would flatter them.
    forbidden = shipped_hashes(Split.GUARD, Split.EVALUATION) if isinstance(source, ArraySource) else frozenset()
    training, validation, left_out = split_for_training(source, options.validation_share, options.seed, forbidden)
    return TrainingData(train=training, validation=validation, preprocessing=info.preprocessing), left_out


def _say_what(data: TrainingData, network: AlexNet, left_out: int, voice: Voice) -> None:
    held_out = len(data.validation) if data.validation else 0
    voice.say(
        f"{network.spec.variant}, {network.spec.classes} classes, on {len(data.train)} images of {data.train.name}; "
        f"{held_out} held out" + (f"; {left_out} left out, which guards and evaluations use" if left_out else "")
    )
    if 0 < held_out < _FEW_HELD_OUT:
        voice.warn(f"the validation top-1 is of {held_out} images and says little (--validation-share holds out more)")


def _files(request: TrainingRequest) -> TrainingFiles:
    stem = request.output.name.split(".")[0]
    return TrainingFiles(
        state=request.output.with_name(f"{stem}.training-state"), log=request.output.with_name(f"{stem}.train.jsonl")
    )


def _trained(
    request: TrainingRequest, network: AlexNet, info: ModelInfo, data: TrainingData, ranks: Ranks, voice: Voice
) -> TrainingResult:
    try:
        return train(
            network, data, request.options, _files(request), resume=request.resume, skip_bad=request.skip_bad,
            voice=voice, ranks=ranks, accumulate=request.accumulate,
        )  # fmt: skip
    except DivergedError as exc:
        if ranks.first:
            _keep_last_good(exc, request, network, info)
        raise


def _keep_last_good(error: DivergedError, request: TrainingRequest, network: AlexNet, info: ModelInfo) -> None:
    """Makes a checkpoint of the weights that the network was put back to, and says so in the error."""
    if error.last_good is None:
        return
    stem = request.output.name.split(".")[0]
    path = request.output.with_name(f"{stem}.last-good.safetensors")
    data = encoded_checkpoint(network, info, path)
    write_artifact(path, data, kind="checkpoint", facts={"model": info.to_json(), "steps": error.last_good})
    error.expected = "a finite loss and finite weights"
    error.remedy = f"go on from the weights of step {error.last_good} with --model {path} and a lower --learning-rate"


def _write(
    request: TrainingRequest,
    network: AlexNet,
    info: ModelInfo,
    result: TrainingResult,
    training: ImageSource,
    ranks: Ranks,
) -> None:
    files = _files(request)
    write_artifact(
        request.output,
        encoded_checkpoint(network, info, request.output, half=request.half),
        kind="checkpoint",
        parents=[Path(request.model)] if request.model and Path(request.model).is_file() else [],
        request=fingerprint([request.options.to_json(), request.data]),
        facts={
            "model": info.to_json(),
            "data": training.name,
            "images": len(training),
            "training": request.options.to_json(),
            "processes": ranks.size,
            "accumulate": request.accumulate,
            "steps": result.steps,
            "images_per_second": round(result.images_per_second, 2),
            "validation_top1": result.validation_top1,
        },
        tools=tool_versions("torch"),
    )
    curve_from_log(files.log, files.log.with_suffix(".svg"))
    files.state.unlink(missing_ok=True)


def _start(request: TrainingRequest, source: ImageSource) -> tuple[AlexNet, ModelInfo]:
    classes = len(source.classes)
    if classes < 2:
        raise InputError(
            f"{source.name} has no classes to tell apart",
            got=f"{len(source)} images of one class" if classes else f"{len(source)} images that lie in no folder",
            expected="one folder a class, and two classes at least",
        )
    if request.model is None:
        spec = NetworkSpec(
            variant=request.variant or "paper", classes=classes, width=request.width, image_size=request.image_size
        )
        network = AlexNet(spec)
        initialize(network, request.options.seed)
        name = f"{spec.variant}-{source.name.split()[0].strip('/').split('/')[-1]}"
        info = ModelInfo(
            name=name,
            network=spec,
            preprocessing=preprocessing_from_source(source, spec.image_size),
            labels=source.classes,
        )
        return network, info
    opened, info = load_model(request.model, variant=request.variant)
    if opened.spec.classes == classes and (not info.labels or info.labels == source.classes):
        return opened, dataclasses.replace(info, labels=source.classes)
    spec = dataclasses.replace(opened.spec, classes=classes)
    network = AlexNet(spec)
    initialize(network, request.options.seed)
    kept = {name: tensor for name, tensor in opened.state_dict().items() if not name.startswith("fc8.")}
    network.load_state_dict(kept, strict=False)
    return network, dataclasses.replace(info, network=spec, labels=source.classes)


def preprocessing_from_source(source: ImageSource, image_size: int) -> Preprocessing:
    """What to train with: stretched and normalized by their own statistics for small images in memory, ImageNet's
    recipe for photographs."""
    if not isinstance(source, ArraySource):
        return Preprocessing(image_size=image_size, resize_size=max(image_size, round(image_size * 256 / 224)))
    pixels = source.images.astype(np.float32) / 255
    axes = (0, 1, 2)
    mean, std = np.atleast_1d(pixels.mean(axis=axes)), np.atleast_1d(pixels.std(axis=axes))
    if source.images.ndim == 3:
        mean, std = np.full(3, pixels.mean()), np.full(3, pixels.std())
    # As it is stored: the mean of equal numbers may miss them by a rounding, and leave a deviation of 1e-9.
    if round(float(std.min()), 4) <= 0:
        raise InputError(f"{source.name}: every image is the same", got="a standard deviation of 0")
    red, green, blue = (round(float(value), 4) for value in mean)
    red_std, green_std, blue_std = (round(float(value), 4) for value in std)
    return Preprocessing(
        image_size=image_size,
        resize_size=image_size,
        resize=Resize.STRETCH,
        mean=(red, green, blue),
        std=(red_std, green_std, blue_std),
    )


def curve_from_log(log: Path, picture: Path) -> None:
    """Draws loss and validation accuracy over the steps of a JSON-lines log, as SVG."""
    from matplotlib.figure import Figure

    rows = [json.loads(line) for line in log.read_text().splitlines()]
    losses = [(row["step"], row["loss"]) for row in rows if "loss" in row]
    accuracies = [(row["step"], row["validation_top1"]) for row in rows if row.get("validation_top1") is not None]
    figure = Figure(figsize=(7, 3.5), layout="constrained")
    axes = figure.subplots()
    axes.set(xlabel="step", ylabel="training loss")
    if losses:
        axes.plot(*zip(*losses, strict=True), color="#4c72b0", linewidth=0.8)
    if accuracies:
        right = axes.twinx()
        right.plot(*zip(*accuracies, strict=True), color="#c44e52", marker="o", linewidth=1)
        right.set_ylabel("validation top-1", color="#c44e52")
    with atomic_path(picture) as temporary:
        figure.savefig(temporary, format="svg")
