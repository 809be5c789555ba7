"""One suite for every implementation of Local Response Normalization: ours keep the bounds, others do as recorded."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from numpy.typing import NDArray
from onnx.backend.test.case.node import lrn as onnxs_cases
from torch import nn

import alexnet_deploy
from alexnet_deploy.lrn.lowering import lower_to_banded
from alexnet_deploy.lrn.node import lower_to_plugin
from alexnet_deploy.lrn.oracle import lrn_reference
from alexnet_deploy.specs import LrnSpec
from tests.graphs import evaluate, model_of
from tests.lrn.cases import CASES, FP16_BOUND, FP32_BOUND, QUESTIONS, Case, judged, outcome_of
from tests.lrn.implementations import IMPLEMENTATIONS, Implementation, our_module, our_module_contained, torchs_module
from tests.lrn.table import BEGIN, END

BY_NAME = {implementation.name: implementation for implementation in IMPLEMENTATIONS}
EVEN = frozenset(case.name for case in CASES if case.spec.size % 2 == 0)
HALF = frozenset(case.name for case in CASES if case.dtype == "float16")


@dataclass(frozen=True, kw_only=True)
class Deviation:
    """What an implementation of others does instead.

    Attributes:
        cases: Names.
        kinds: Of outcome; several where rounding or the CPU decides between them.
        reason: Part of the exception's message.
    """

    cases: frozenset[str]
    kinds: tuple[str, ...]
    reason: str = ""


_NO_HALF = Deviation(cases=HALF, kinds=("refused",), reason="not implemented for 'Half'")
# Of the implementations that are not ours; what is not listed conforms, and keeps a NaN in its window.
EXPECTED = {
    "torch `nn.LocalResponseNorm`": (_NO_HALF,),
    # The exporter runs the module.
    "torch's TorchScript export, ONNX Runtime": (_NO_HALF,),
    # The export's alpha is of the input's type, in which 1e-9 is zero.
    "torch's export, ONNX Runtime": (Deviation(cases=frozenset({"half: alpha 1e-9, spread"}), kinds=("wrong",)),),
    "ONNX `LRN`, ONNX Runtime": (
        Deviation(cases=EVEN, kinds=("refused",), reason="size_ % 2 == 1 was false"),
        # What has left the sliding sum leaves its rounding behind, down to sums below zero, whose power is no number.
        Deviation(
            cases=frozenset({
                "paper, spread",
                "paper, to 1e15",
                "window 1, spread",
                "window 3, caffe, spread",
                "window 3, beta 0.5, spread",
                "window 5, alpha 1, spread",
                "window 5, beta 0.3, spread",
                "window 5, beta 1.3, spread",
                "window 7, beta 1, spread",
                "window 9, beta 0.6, spread",
                "half: 80 channels, spread",
                "half: alpha 1, spread",
                "half: beta 0.5, spread",
                "half: beta 0.3, spread",
            }),
            kinds=("inexact", "wrong", "not finite"),
        ),
        Deviation(
            cases=frozenset({"window 1, ordinary", "half: paper, spread", "half: alpha 1e-9, spread"}),
            kinds=("conforms", "inexact"),
        ),
        Deviation(cases=frozenset({"NaN", "NaN, 80 channels", "NaN, half"}), kinds=("onwards",)),
    ),
    "ONNX `LRN`, onnx.reference": (
        # It sums over the window for as many channels as there are images, here one.
        Deviation(cases=frozenset({"80 channels"}), kinds=("inexact", "wrong")),
        Deviation(cases=frozenset({"half: 80 channels, spread"}), kinds=("vanishes", "wrong")),
        Deviation(cases=frozenset({"NaN, 80 channels"}), kinds=("lost",)),
        # It squares in float16.
        Deviation(
            cases=frozenset(
                name for name in HALF if name.endswith(("spread", "largest")) and name != "half: 80 channels, spread"
            ),
            kinds=("vanishes",),
        ),
    ),
    "ONNX `LRN`, OpenVINO": (
        # Both windows are wider than three channels.
        Deviation(cases=EVEN - {"window 8 of 3 channels", "NaN, even window"}, kinds=("inexact", "wrong")),
        Deviation(cases=frozenset({"NaN, even window"}), kinds=("lost",)),
        # Its kernel for AVX2 is another one than for AVX-512.
        Deviation(cases=frozenset({"half: 80 channels, spread"}), kinds=("conforms", "inexact")),
        Deviation(cases=frozenset({"NaN, 80 channels"}), kinds=("window", "onwards")),
    ),
}  # fmt: skip


def recorded(implementation: Implementation, case: Case) -> Deviation:
    """What EXPECTED says, or that nothing is amiss."""
    found = [deviation for deviation in EXPECTED[implementation.name] if case.name in deviation.cases]
    assert len(found) <= 1, (implementation.name, case.name)
    usual = Deviation(cases=frozenset({case.name}), kinds=("window" if case.group == "nan" else "conforms",))
    return found[0] if found else usual


@pytest.mark.parametrize(
    ("implementation", "case"),
    QUESTIONS,
    ids=[f"{implementation.name}: {case.name}" for implementation, case in QUESTIONS],
)
def test_ours_is_the_oracle_and_others_do_as_recorded(implementation: Implementation, case: Case) -> None:
    if implementation.needs:
        pytest.importorskip(implementation.needs)
    outcome = outcome_of(implementation, case)
    if implementation.ours:
        wanted = implementation.nan if case.group == "nan" else "conforms"
        assert outcome.kind == wanted, outcome
        assert outcome.within, outcome
        return
    deviation = recorded(implementation, case)
    advice = "with a new version of a runtime: bring EXPECTED up to date, and docs/lrn.md with `make lrn-table`"
    assert outcome.kind in deviation.kinds, f"{outcome}, recorded as {deviation.kinds}; {advice}"
    assert deviation.reason in outcome.reason, f"{outcome}, recorded as {deviation.reason!r}; {advice}"
    if outcome.kind in ("window", "onwards"):
        assert outcome.within, f"{outcome}; {advice}"


def test_what_is_recorded_is_of_cases_and_implementations_that_there_are() -> None:
    assert len(BY_NAME) == len(IMPLEMENTATIONS)
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names)
    assert set(EXPECTED) == {implementation.name for implementation in IMPLEMENTATIONS if not implementation.ours}
    for deviations in EXPECTED.values():
        assert all(deviation.cases <= set(names) for deviation in deviations)


ONES = np.ones((1, 4, 1, 2))


@pytest.mark.parametrize(
    ("got", "dtype", "kind"),
    [
        (ONES * (1 + 1.8e-6), np.float32, "conforms"),
        (ONES * (1 + 2.5e-6), np.float32, "inexact"),
        (ONES * [1, 1.06], np.float32, "wrong"),
        (ONES * [1, 0], np.float32, "vanishes"),
        (ONES * [1, np.inf], np.float32, "not finite"),
        (ONES * (1 + 2 * 2.0**-10), np.float16, "conforms"),
        (ONES * (1 + 3 * 2.0**-10), np.float16, "inexact"),
        (ONES * [1, np.nan], np.float16, "not finite"),
    ],
)
def test_the_judge_sees_every_kind_of_error(got: NDArray[np.float64], dtype: type[np.floating], kind: str) -> None:
    assert judged(got.astype(dtype), ONES, np.dtype(dtype)).kind == kind


@pytest.mark.parametrize(
    ("channels", "kind"),
    [([1], "window"), ([1, 2, 3], "onwards"), ([0, 1, 2, 3], "pixel"), ([2], "lost"), ([0, 1], "strewn")],
)
def test_the_judge_sees_where_a_nan_has_gone(channels: list[int], kind: str) -> None:
    wanted, got = ONES.copy(), ONES.astype(np.float32)
    wanted[0, 1, 0, 0] = np.nan
    got[0, channels, 0, 0] = np.nan
    outcome = judged(got, wanted, got.dtype)
    assert (outcome.kind, outcome.within) == (kind, True)


def test_the_judge_takes_any_number_where_zero_is_right_for_wrong() -> None:
    got = np.asarray([[0.0, 1e-30]], np.float32)
    outcome = judged(got, np.zeros((1, 2)), got.dtype)
    assert (outcome.kind, outcome.error) == ("wrong", np.inf)


@pytest.mark.parametrize("name", sorted(name for name, one in BY_NAME.items() if one.window == "torch"))
def test_an_even_window_of_torch_is_not_onnxs(name: str) -> None:
    """Over the same input, the two definitions are one for odd windows only."""
    (case,) = (case for case in CASES if case.name == "window 2, spread")
    x = case.x()
    got = BY_NAME[name].run(x, case.spec)
    assert judged(got, lrn_reference(x, case.spec), x.dtype).kind == "wrong"
    mirrored = np.ascontiguousarray(BY_NAME[name].run(np.ascontiguousarray(x[:, ::-1]), case.spec)[:, ::-1])
    assert judged(mirrored, lrn_reference(x, case.spec), x.dtype).kind == "conforms"


@pytest.mark.parametrize("size", [2, 4, 6])
def test_openvino_sums_an_even_window_one_channel_short(size: int) -> None:
    """Over `size - 1` channels, and divides by `size`."""
    pytest.importorskip("openvino")
    x = np.random.default_rng(0).normal(0, 3, (2, 9, 3, 4)).astype(np.float32)
    got = BY_NAME["ONNX `LRN`, OpenVINO"].run(x, LrnSpec(size=size, alpha=0.5))
    shorter = LrnSpec(size=size - 1, alpha=0.5 * (size - 1) / size)
    assert judged(got, lrn_reference(x, shorter), x.dtype).kind == "conforms"


def gradient(module: nn.Module, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Of the output's product with `weight`."""
    leaf = x.clone().requires_grad_()
    module(leaf).backward(weight)
    assert leaf.grad is not None
    return leaf.grad


@pytest.mark.parametrize("module", [our_module, our_module_contained], ids=["banded", "contain_nan"])
@pytest.mark.parametrize("case", [case for case in CASES if case.group != "nan"], ids=lambda case: str(case.name))
def test_the_gradient_is_torchs_in_float64(module: Callable[[LrnSpec], nn.Module], case: Case) -> None:
    """Element by element, as a share of what is added and subtracted, for the sum may be nothing.

    `dx[i] = g[i] * s[i]**-beta - 2 * beta * alpha / size * x[i] * sum(g[j] * x[j] * s[j]**(-beta - 1))`: with |g| and
    |x| the same formula has the magnitudes of both terms in it.
    """
    x = torch.from_numpy(case.x())
    weight = torch.from_numpy(np.random.default_rng(1).normal(0, 1, case.shape).astype(case.dtype))
    got = gradient(module(case.spec), x, weight)
    exact, wide, wide_weight = torchs_module(case.spec), x.double(), weight.double()
    wanted = gradient(exact, wide, wide_weight)
    difference = gradient(exact, wide.abs(), wide_weight.abs())
    first = torch.where(wide == 0, difference, wide_weight.abs() * exact(wide) / wide)
    terms = first + (first - difference)
    assert got.dtype == x.dtype
    allowed = FP32_BOUND * terms + torch.finfo(torch.float32).tiny
    if x.dtype == torch.float16:
        step = np.spacing(np.abs(wanted.numpy()).astype(np.float16)).astype(np.float64)
        allowed += FP16_BOUND * torch.from_numpy(step)
    assert bool(((got.double() - wanted).abs() <= allowed).all())


@pytest.mark.parametrize("example", [onnxs_cases.LRN.export, onnxs_cases.LRN.export_default])
@pytest.mark.parametrize(
    "lower",
    [
        lambda _model: 1,
        lower_to_banded,
        lambda model: lower_to_banded(model, channels_last=True),
        lambda model: lower_to_banded(model, contain_nan=True),
        lower_to_plugin,
    ],
    ids=["native", "banded", "channels_last", "contain_nan", "plugin"],
)
def test_onnxs_own_node_tests_pass_through_every_lowering(
    lower: Callable[[ir.Model], int], example: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, Any]] = []
    monkeypatch.setattr(onnxs_cases, "expect", lambda node, **values: seen.append({"node": node, **values}))
    example()
    (asked,) = seen
    (x,), (y,) = asked["inputs"], asked["outputs"]
    model = model_of([asked["node"]], x.shape, {})
    assert lower(model) == 1
    assert judged(evaluate(model, x), y.astype(np.float64), x.dtype).kind == "conforms"


def test_the_table_in_the_docs_has_a_row_for_each() -> None:
    text = (Path(alexnet_deploy.__file__).parents[1] / "docs" / "lrn.md").read_text()
    table = text.split(BEGIN)[1].split(END)[0]
    rows = re.findall(r"^\| ([^|]+?) \|", table, re.MULTILINE)
    assert rows[:2] == ["implementation", "---"]
    assert rows[2:] == [implementation.name for implementation in IMPLEMENTATIONS]
