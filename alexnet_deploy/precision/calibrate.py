"""From images to a calibration table: streams batches through the FP32 graph and keeps histograms only."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from alexnet_deploy.data.batches import batches
from alexnet_deploy.data.sources import ImageSource
from alexnet_deploy.errors import GraphError
from alexnet_deploy.export import lowered
from alexnet_deploy.graph import weighted_nodes
from alexnet_deploy.interrupts import StopRequest, stoppable
from alexnet_deploy.precision.channels import ChannelRanges
from alexnet_deploy.precision.histogram import Histogram
from alexnet_deploy.precision.resume import Progress, State
from alexnet_deploy.precision.table import CalibrationTable, observed
from alexnet_deploy.precision.thresholds import DEFAULT_PERCENTILE, Method, require_percentile
from alexnet_deploy.progress import SILENT, Voice
from alexnet_deploy.specs import Lowering, Preprocessing

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir
    import onnxruntime
    from numpy.typing import NDArray

# Memory for the extra outputs grows with it: 16 images keep the whole run near 1 GB for AlexNet.
CALIBRATION_BATCH = 16
DEFAULT_METHOD = Method.MAX
_LARGE_WEIGHT = 1 << 16


def calibrated_values(model: ir.Model) -> list[str]:
    """Names of the activations that some target quantizes: what every weighted layer reads, and what it gives
    after its ReLU."""
    names: dict[str, None] = {}
    for layer in weighted_nodes(model):
        names[str(layer.activation.name)] = None
        names[str(result_of(layer.node).name)] = None
    return list(names)


def channel_axes(model: ir.Model) -> dict[str, int]:
    """Of what layers give after their ReLU, the axis of their filters or units."""
    return {
        str(result_of(layer.node).name): 1 if layer.node.op_type == "Conv" else -1 for layer in weighted_nodes(model)
    }


def result_of(node: ir.Node) -> ir.Value:
    """The output of a layer, or that of the ReLU which alone reads it."""
    output = node.outputs[0]
    uses = list(output.uses())
    if len(uses) == 1 and uses[0].node.op_type == "Relu":
        return uses[0].node.outputs[0]
    return output


@dataclass(frozen=True, kw_only=True)
class CalibrationOptions:
    """How to calibrate.

    Attributes:
        method: By which later stages take thresholds; all four are in the table.
        percentile: Of that method.
    """

    method: Method = DEFAULT_METHOD
    percentile: float = DEFAULT_PERCENTILE

    def __post_init__(self) -> None:
        """Before the images, not after them."""
        require_percentile(self.percentile)


class Counter(Protocol):
    """Counts images somewhere else, in parts that are cut the same way whoever counts them."""

    def __call__(self, order: NDArray[np.int64], first: int) -> Generator[State]:
        """Images and histograms of every part of `order` from position `first` on, in order."""


def table_from_images(
    model: ir.Model,
    source: ImageSource,
    preprocessing: Preprocessing,
    graph_sha256: str,
    *,
    options: CalibrationOptions = CalibrationOptions(),
    hashes: Sequence[str] | None = None,
    counter: Counter | None = None,
    progress: Progress | None = None,
    voice: Voice = SILENT,
) -> CalibrationTable:
    """Calibrates in one pass, whose memory does not grow with the number of images.

    The same images give the same table to the last digit, in whatever order they come: they are taken in the order of
    their content hashes, in batches of a fixed size, and their values are counted in integers.

    Args:
        model: The FP32 graph with standard `LRN` nodes.
        source: The calibration images.
        preprocessing: That of the model.
        graph_sha256: Hash of the graph's file.
        options: How thresholds are chosen.
        hashes: Content hashes of the images, where somebody has read them already.
        counter: Counts them in place of this process; its parts are whole batches, but for the last one.
        progress: Where an interrupted run is kept and picked up; None starts anew. Who writes the table then calls
            its `forget`.
        voice: Shows a progress bar.

    Raises:
        GraphError: An activation is not finite.
        ImageError: An image is damaged; `undamaged` finds those that are not.
    """
    if hashes is None:
        hashes = [source.content_hash(index) for index in range(len(source))]
    order = np.asarray(sorted(range(len(source)), key=hashes.__getitem__), np.int64)
    progress = progress or Progress(None, "")
    if counter is None:
        histograms = _collected(model, source, preprocessing, order, progress, voice)
    else:
        histograms = _gathered(calibrated_values(model), counter, order, progress, voice)
    with progress.kept(lambda: (len(order), histograms)):
        tensors = {name: observed(histogram, options.percentile) for name, histogram in histograms.items()}
    return CalibrationTable(
        method=options.method,
        percentile=options.percentile,
        tensors=tensors,
        graph_sha256=graph_sha256,
        preprocessing=preprocessing.fingerprint,
        images=tuple(sorted(hashes)),
    )


def _collected(
    model: ir.Model,
    source: ImageSource,
    preprocessing: Preprocessing,
    order: NDArray[np.int64],
    progress: Progress,
    voice: Voice,
) -> dict[str, Histogram]:
    observer = Observer(model)
    state = progress.restore(observer.names)
    done = state[0]
    counting: Future[State] | None = None

    def latest() -> State:
        """With the batch that was being counted, unless counting it is what failed."""
        return state if counting is None or counting.exception() else counting.result()

    with (
        _stoppable(voice) as stop,
        voice.track("calibrate", len(order), done) as track,
        progress.kept(latest),
        ThreadPoolExecutor(max_workers=1) as pool,
    ):
        for batch in batches(source, CALIBRATION_BATCH, preprocessing, indices=order[done:]):
            arrays = observer.values(batch.images)
            # Counted while the next batch runs. One assignment: an interrupt finds whole batches.
            state = counting.result() if counting else state
            counting = pool.submit(_with_batch, state, observer, arrays)
            track.advance(len(batch.indices))
            stop.obey()
            progress.keep_now_and_then(state)
        state = counting.result() if counting else state
    return state[1]


def _gathered(
    wanted: list[str], counter: Counter, order: NDArray[np.int64], progress: Progress, voice: Voice
) -> dict[str, Histogram]:
    state = progress.restore(wanted)
    with (
        _stoppable(voice) as stop,
        voice.track("calibrate", len(order), state[0]) as track,
        progress.kept(lambda: state),
        contextlib.closing(counter(order, state[0])) as parts,
    ):
        for count, histograms in parts:
            state = _together(state, count, histograms)
            track.advance(count)
            stop.obey()
            progress.keep_now_and_then(state)
    return state[1]


def _stoppable(voice: Voice) -> contextlib.AbstractContextManager[StopRequest]:
    return stoppable(
        voice.warn,
        "interrupted: calibration stops after this batch",
        remedy="the images counted so far are kept, and the same command goes on from there",
    )


def _with_batch(state: State, observer: Observer, arrays: dict[str, NDArray[np.float32]]) -> State:
    return _together(state, len(next(iter(arrays.values()))), observer.histograms(arrays))


def _together(state: State, count: int, histograms: dict[str, Histogram]) -> State:
    return state[0] + count, {name: found.merged(histograms[name]) for name, found in state[1].items()}


class Observer:
    """The FP32 graph, and histograms of what calibration looks at in it.

    Attributes:
        names: Of the values.
    """

    def __init__(self, model: ir.Model) -> None:
        self.names = calibrated_values(model)
        self._axes = channel_axes(model)
        self._session = ObservingSession(model, self.names)

    def values(self, images: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """The values for `CALIBRATION_BATCH` images at most, by name."""
        count = len(images)
        # A kernel may round by the batch's size: every batch has the same, and the filling is thrown away.
        filled = np.concatenate([images, *[images[-1:]] * (CALIBRATION_BATCH - count)])
        return dict(zip(self.names, (array[:count] for array in self._session.run(filled)), strict=True))

    def histograms(self, values: dict[str, NDArray[np.float32]]) -> dict[str, Histogram]:
        """Counts them.

        Raises:
            GraphError: One is not finite.
        """
        return {name: _counted(name, array, self._axes.get(name)) for name, array in values.items()}


class ObservingSession:
    """The FP32 graph in the form that runs fastest here, which gives the named values.

    Weights are handed over as arrays: writing AlexNet's into a model and reading them out of it again takes half a
    second. ONNX Runtime does not copy them, so that they live as long as the session.

    Args:
        model: The FP32 graph.
        names: Of values, the input's among them perhaps.
    """

    def __init__(self, model: ir.Model, names: list[str]) -> None:
        import onnx_ir as ir
        import onnxruntime

        self._names = names
        proto = ir.to_proto(_with_outputs(model, names))
        options = _quiet_options()
        self._weights = _without_weights(proto)
        self._values = [onnxruntime.OrtValue.ortvalue_from_numpy(array) for array in self._weights.values()]
        options.add_external_initializers(list(self._weights), self._values)
        self._session = onnxruntime.InferenceSession(
            proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        self._input = self._session.get_inputs()[0].name

    def run(self, images: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """The values, in the order of their names."""
        found: list[NDArray[np.float32]] = self._session.run(self._names, {self._input: images})
        return found


def _without_weights(proto: onnx.ModelProto) -> dict[str, NDArray[np.float32]]:
    """Takes the large weights out of a model, which says from then on that they are somewhere else."""
    import onnx

    weights = {}
    for tensor in proto.graph.initializer:
        if len(tensor.raw_data) < _LARGE_WEIGHT:
            continue
        weights[tensor.name] = onnx.numpy_helper.to_array(tensor)
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", "memory"), ("offset", "0"), ("length", str(weights[tensor.name].nbytes))):
            tensor.external_data.add(key=key, value=value)
    return weights


def _counted(name: str, array: NDArray[np.float32], axis: int | None) -> Histogram:
    histogram = Histogram()
    try:
        histogram.add(array)
    except ValueError as exc:
        raise GraphError(
            f"the activation {name} is not finite",
            got=exc,
            remedy="check the weights for NaN and overflow with `alexnet-deploy inspect`",
        ) from exc
    if axis is not None and array.ndim > 1:
        histogram.channels = ChannelRanges.of(array, axis)
    return histogram


def _with_outputs(model: ir.Model, names: list[str]) -> ir.Model:
    """The banded form, which runs fastest here, with the named values as outputs; its input is one too."""
    import onnx_ir as ir

    copy = lowered(model, Lowering.BANDED)
    values = {value.name: value for node in copy.graph for value in node.outputs}
    present = {value.name for value in copy.graph.outputs}
    for name in names:
        if name in values and name not in present:
            value = values[name]
            value.dtype = ir.DataType.FLOAT
            copy.graph.outputs.append(value)
        elif name == copy.graph.inputs[0].name:
            copy.graph.outputs.append(copy.graph.inputs[0])
    return copy


def _quiet_options() -> onnxruntime.SessionOptions:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # The last batch is counted while this one runs: threads that spin would be in its way.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options
