"""Limits are the arithmetic of the roofline, worked out by hand, and kernels come back to their layers."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from alexnet_deploy.bench import peaks as peaks_module
from alexnet_deploy.bench.anchor import AnchorTimes, GuardedAnchor, LocalAnchor, RemoteAnchor
from alexnet_deploy.bench.peaks import Peaks, _Meter, measured_peaks
from alexnet_deploy.bench.profile import layer_of_kernel, layers_of_nodes, profile_from_kernels
from alexnet_deploy.bench.roofline import LayerCost, layer_limit, network_limit
from alexnet_deploy.errors import SessionError
from alexnet_deploy.progress import Voice
from alexnet_deploy.runtimes.session import KernelTime

PEAKS = Peaks(
    device="cpu",
    threads=2,
    read_bytes_per_second=1e9,
    macs_per_second={"fp32": 1e9, "int8": 4e9},
    kernels={"read": "torch.sum", "fp32": "torch.mm", "int8": "MatMulInteger"},
)
CONV = LayerCost(name="conv1", macs=2_000_000, run_bytes=1000, image_bytes=500_000, precision="int8")
FC = LayerCost(name="fc6", macs=1_000_000, run_bytes=4_000_000, image_bytes=0, precision="fp32")


def test_a_layer_takes_the_longer_of_its_arithmetic_and_its_reading() -> None:
    conv, fc = layer_limit(CONV, 1, PEAKS), layer_limit(FC, 1, PEAKS)
    assert conv is not None and fc is not None
    # 2e6 / 4e9 = 0.5 ms of arithmetic against 0.501 ms of reading; 1e6 / 1e9 = 1 ms against 4 ms.
    assert conv.bound == fc.bound == "memory"
    assert [conv.limit_ms, fc.limit_ms] == pytest.approx([0.501, 4.0])


def test_weights_are_read_once_for_a_batch() -> None:
    fc = layer_limit(FC, 8, PEAKS)
    assert fc is not None and fc.limit_ms == pytest.approx(8.0)
    assert (fc.bound, fc.size_bytes, fc.macs) == ("compute", 4_000_000, 8_000_000)


def test_a_network_is_the_sum_of_its_layers() -> None:
    both = network_limit([CONV, FC], 8, PEAKS)
    assert both is not None
    assert both.limit_ms == pytest.approx(4.001 + 8.0)
    assert both.memory_share == pytest.approx(4.001 / 12.001) and both.bound == "compute"
    assert both.to_json(24.002)["fraction"] == pytest.approx(0.5)


def test_a_precision_without_a_peak_has_no_limit() -> None:
    unknown = LayerCost(name="fc7", macs=1, run_bytes=1, image_bytes=0, precision="fp8")
    assert layer_limit(unknown, 1, PEAKS) is None
    assert network_limit([CONV, unknown], 1, PEAKS) is None
    assert network_limit([], 1, PEAKS) is None


def test_peaks_survive_a_file() -> None:
    assert Peaks.from_json(PEAKS.to_json()) == PEAKS


def test_the_fastest_kernel_is_kept_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    meter = _Meter(1)
    seconds = {"slow": 2.0, "fast": 0.5}
    monkeypatch.setattr(meter, "_reads", lambda: [("slow", 8.0, lambda: "slow"), ("fast", 8.0, lambda: "fast")])
    monkeypatch.setattr(meter, "_products", lambda: {"fp32": lambda: [("mm", 3.0, lambda: "slow")]})
    monkeypatch.setattr(meter, "_best_seconds", lambda run: seconds[run()])
    peaks = meter.peaks()
    assert (peaks.read_bytes_per_second, peaks.macs_per_second) == (16.0, {"fp32": 1.5})
    assert peaks.kernels == {"read": "fast", "fp32": "mm"}


def numbers(result: Any) -> NDArray[np.float64]:
    """What any of the libraries answers with."""
    if isinstance(result, torch.Tensor):
        return result.numpy().astype(np.float64)
    return np.asarray(result[0]).astype(np.float64)


def test_every_kernel_does_the_work_that_it_counts_as(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peaks_module, "_SIDE", 32)
    monkeypatch.setattr(peaks_module, "_MATRIX_SIDE", 64)
    monkeypatch.setattr(peaks_module, "_READ_BYTES", 4096)
    meter = _Meter(1)
    reads = {name: (amount, numbers(run())) for name, amount, run in meter._reads()}
    of_one_row = {name for name in reads if "MatMul" in name}
    assert {"OpenVINO MatMul of one row", "ONNX Runtime MatMul of one row"} == of_one_row
    for name in (*of_one_row, "torch.mv"):
        assert reads[name][0] == 4 * 64**2 and (reads[name][1] == 64).all() and reads[name][1].size == 64, name
    assert (reads["torch.sum"][0], float(reads["torch.sum"][1])) == (4096, 1024)
    random = np.random.default_rng(0)
    factor = random.standard_normal((32, 32)).astype(np.float32)
    for name, amount, run in meter._fp32():
        assert amount == 32**3
        if name != "torch.mm":
            np.testing.assert_allclose(numbers(run()), factor @ factor, rtol=1e-4, atol=1e-5)
    random = np.random.default_rng(0)
    left = random.integers(0, 128, (32, 32)).astype(np.uint8)
    right = random.integers(-127, 128, (32, 32)).astype(np.int8)
    integers = {name: numbers(run()) for name, _, run in meter._int8()}
    assert (integers["ONNX Runtime MatMulInteger"] == left.astype(int) @ right.astype(int)).all()
    real = 1e-4 * ((left.astype(int) - 64) @ right.astype(int))
    for name in ("ONNX Runtime quantized MatMul", "OpenVINO quantized MatMul"):
        np.testing.assert_allclose(integers[name], real, rtol=1e-3, atol=0.1)


def test_a_real_machine_has_peaks_that_a_machine_can_have() -> None:
    peaks = measured_peaks(1)
    assert 1e8 < peaks.read_bytes_per_second < 1e13
    assert {"fp32", "int8"} <= set(peaks.macs_per_second)
    assert all(1e8 < rate < 1e15 for rate in peaks.macs_per_second.values())
    assert set(peaks.kernels) == {"read", *peaks.macs_per_second}


def test_the_anchor_takes_the_fastest_of_its_runs() -> None:
    times = iter([0.0, 0.010, 1.0, 1.002, 2.0, 2.003, 3.0, 3.004, 10.0, 10.5, 11.0, 11.1, 12.0, 12.2, 13.0, 13.4])
    anchor = LocalAnchor(threads=1, clock=lambda: next(times))
    anchor._pieces = (lambda: None, lambda: None)
    measured = anchor.measure()
    assert [measured.compute, measured.memory] == pytest.approx([2.0, 100.0])


class Broken:
    """An anchor that falls out when it is measured for the second time."""

    def __init__(self) -> None:
        self.visits, self.closed = 0, False

    def open(self) -> None: ...

    def measure(self) -> AnchorTimes:
        self.visits += 1
        if self.visits == 2:
            raise SessionError("the process of the anchor ended")
        return AnchorTimes(compute=1.0, memory=2.0)

    def close(self) -> None:
        self.closed = True


def test_an_anchor_that_falls_out_is_said_and_missed_and_nothing_else() -> None:
    stream, broken = io.StringIO(), Broken()
    guarded = GuardedAnchor(broken, Voice(stream=stream))
    guarded.open()
    assert guarded.measure() == AnchorTimes(compute=1.0, memory=2.0)
    assert guarded.measure() is None and guarded.measure() is None
    assert broken.closed and broken.visits == 2
    assert stream.getvalue().count("the anchor fell out") == 1
    assert GuardedAnchor(None, Voice()).measure() is None


def test_the_anchor_works_in_a_process_of_its_own() -> None:
    anchor = RemoteAnchor(1)
    try:
        anchor.open()
        times = anchor.measure()
    finally:
        anchor.close()
    assert times.compute > 0 and times.memory > 0


NODES: list[dict[str, Any]] = [
    {"name": "conv1", "result": "conv1_out", "op": "conv"},
    {"name": "relu1", "result": "relu1_out", "op": "other"},
    {"name": "norm1", "result": "norm1_out", "op": "lrn"},
    {"name": "conv10", "result": "conv10_out", "op": "conv"},
    {"name": "fc8", "result": "logits", "op": "linear"},
]


@pytest.mark.parametrize(
    ("kernel", "layer"),
    [
        ("conv1", "conv1"), ("relu1_nchwc", "conv1"), ("norm1.squares", "norm1"), ("fused fc8", "fc8"),
        ("logits", "fc8"), ("conv10/WithoutBiases", "conv10"), ("conv1/WithoutBiases", "conv1"), ("conv12", None),
        ("input.quantized", None), ("", None), ("fc8_token_3", "fc8"),
    ],
)  # fmt: skip
def test_kernels_find_their_layer(kernel: str, layer: str | None) -> None:
    assert layer_of_kernel(kernel, layers_of_nodes(NODES)) == layer


def test_what_comes_before_the_first_layer_belongs_to_none() -> None:
    nodes = [{"name": "scale", "result": "scaled", "op": "other"}, *NODES]
    assert "scale" not in layers_of_nodes(nodes)


def test_a_profile_keeps_every_millisecond() -> None:
    kernels = [
        KernelTime(name="conv1", op="Conv", milliseconds=3.0),
        KernelTime(name="relu1_nchwc", op="Conv", milliseconds=1.0),
        KernelTime(name="conv1_reorder", op="ReorderOutput", milliseconds=0.5),
        KernelTime(name="elsewhere", op="Cast", milliseconds=0.25),
    ]
    layers = ["conv1", "norm1", "conv10", "fc8"]
    profile = profile_from_kernels(kernels, layers_of_nodes(NODES), layers, [CONV], 2, PEAKS)
    assert profile["total_ms"] == 4.75 and profile["other_ms"] == 0.75 and profile["batch"] == 2
    assert profile["layers"][0] == {"name": "conv1", "ms": 4.0, "limit_ms": 1.001, "bound": "memory"}
    assert profile["layers"][1] == {"name": "norm1", "ms": 0.0, "limit_ms": None, "bound": None}
    assert profile_from_kernels(kernels, {}, layers, [CONV], 2, None)["other_ms"] == 4.75
