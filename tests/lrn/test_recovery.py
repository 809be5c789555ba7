"""Whatever way an exporter took LRN apart it comes back exactly, and what only looks like LRN stays as it is."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from numpy.typing import NDArray
from onnx import GraphProto, NodeProto, TensorProto, helper, numpy_helper
from torch import Tensor, nn

from alexnet_deploy.graph import copy_of, graph_bytes, inferred_copy
from alexnet_deploy.lrn.lowering import lower_to_banded, lrn_nodes, spec_of
from alexnet_deploy.lrn.module import LocalResponseNorm
from alexnet_deploy.lrn.oracle import lrn_reference
from alexnet_deploy.lrn.recovery import recover_lrn
from alexnet_deploy.specs import LrnSpec
from tests.graphs import evaluate, exported, model_of, operators

CHANNELS, SIDE = 11, 4
KRIZHEVSKY = LrnSpec(bias=2.0)
SPECS = (
    KRIZHEVSKY,
    LrnSpec(),
    LrnSpec(size=3, alpha=5e-5),
    LrnSpec(size=7, alpha=2e-3, bias=2.0),
    LrnSpec(beta=0.5),
    LrnSpec(alpha=1.0, beta=1.0, bias=0.5),
    LrnSpec(size=9, alpha=1e-6, beta=0.6, bias=1.5),
)


@dataclass(frozen=True, kw_only=True)
class Form:
    """How one exporter writes it; every field is one of its choices."""

    squares: str = "Mul"
    expand: str = "Reshape"
    padding: str = "Pad"
    constants: str = "initializer"
    batch: int | str = 2
    opset: int = 18
    alpha_first: bool = False
    divided_by: bool = False


FORMS = {
    "plain": Form(),
    "pow-for-squares": Form(squares="Pow"),
    "unsqueeze": Form(expand="Unsqueeze"),
    "pads-in-the-pool": Form(padding="pool"),
    "constant-nodes": Form(constants="Constant"),
    "constant-nodes-unsqueeze": Form(constants="Constant", expand="Unsqueeze", squares="Pow"),
    "dynamic-batch": Form(batch="N"),
    "batch-of-one": Form(batch=1),
    "alpha-first": Form(alpha_first=True),
    "division-for-alpha": Form(divided_by=True),
    "opset-13": Form(opset=13),
    "opset-13-all-other-choices": Form(
        opset=13, squares="Pow", expand="Unsqueeze", padding="pool", constants="Constant", batch="N", alpha_first=True
    ),
}


class Writer:
    """Collects the nodes of one form."""

    def __init__(self, form: Form) -> None:
        self.form, self.nodes, self.initializers = form, list[NodeProto](), dict[str, NDArray[Any]]()

    def constant(self, name: str, values: float | list[int]) -> str:
        array = np.asarray(values, np.int64 if isinstance(values, list) else np.float32)
        if self.form.constants == "initializer":
            self.initializers[name] = array
        else:
            self.nodes.append(helper.make_node("Constant", [], [name], value=numpy_helper.from_array(array)))
        return name

    def step(self, op: str, *inputs: str, to: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, list(inputs), [to], **attributes))
        return to

    def model(self) -> ir.Model:
        return model_of(self.nodes, [self.form.batch, CHANNELS, SIDE, SIDE], self.initializers, opset=self.form.opset)

    def squares(self) -> str:
        if self.form.squares == "Mul":
            return self.step("Mul", "x", "x", to="squares")
        return self.step("Pow", "x", self.constant("two", 2.0), to="squares")

    def expanded(self, value: str, *, wide: bool, to: str) -> str:
        if self.form.expand == "Unsqueeze":
            return self.step("Unsqueeze" if wide else "Squeeze", value, self.constant(f"{to}.axes", [1]), to=to)
        batch = self.form.batch if isinstance(self.form.batch, int) else -1
        shape = [batch, 1, CHANNELS, SIDE, SIDE] if wide else [batch, CHANNELS, SIDE, SIDE]
        return self.step("Reshape", value, self.constant(f"{to}.shape", shape), to=to)

    def mean(self, squares: str, size: int, pads: tuple[int, int], to: str = "mean") -> str:
        expanded = self.expanded(squares, wide=True, to=f"{to}.expanded")
        kernel = {"kernel_shape": [size, 1, 1], "strides": [1, 1, 1]}
        below, above = pads
        if self.form.padding == "Pad":
            all_pads = self.constant(f"{to}.pads", [0, 0, below, 0, 0, 0, 0, above, 0, 0])
            padded = self.step("Pad", expanded, all_pads, self.constant(f"{to}.zero", 0.0), to=f"{to}.padded")
            pooled = self.step("AveragePool", padded, to=f"{to}.pooled", **kernel)
        else:
            pads_in_pool = {"pads": [below, 0, 0, above, 0, 0], "count_include_pad": 1}
            pooled = self.step("AveragePool", expanded, to=f"{to}.pooled", **kernel, **pads_in_pool)
        return self.expanded(pooled, wide=False, to=to)

    def sums(self, spec: LrnSpec, mean: str) -> str:
        if self.form.divided_by:
            scaled = self.step("Div", mean, self.constant("alpha", 1 / spec.alpha), to="scaled")
        else:
            alpha = self.constant("alpha", spec.alpha)
            scaled = self.step("Mul", *((alpha, mean) if self.form.alpha_first else (mean, alpha)), to="scaled")
        return self.step("Add", scaled, self.constant("bias", spec.bias), to="sums")

    def power(self, spec: LrnSpec, sums: str) -> str:
        return self.step("Pow", sums, self.constant("beta", spec.beta), to="power")


def window(size: int) -> tuple[int, int]:
    """torch's padding of the channels."""
    return size // 2, (size - 1) // 2


def decomposed(spec: LrnSpec, form: Form | None = None) -> ir.Model:
    """`y = LRN(x)` as separate operators, as torch defines it."""
    write = Writer(form or Form())
    mean = write.mean(write.squares(), spec.size, window(spec.size))
    write.step("Div", "x", write.power(spec, write.sums(spec, mean)), to="y")
    return write.model()


def images(scale: float, seed: int = 0) -> NDArray[np.float32]:
    random = np.random.default_rng(seed)
    return (scale * random.standard_normal((2, CHANNELS, SIDE, SIDE))).astype(np.float32)


def assert_same_values(left: ir.Model, right: ir.Model, batch: int = 2) -> None:
    for scale in (0.1, 3.0, 100.0, 2000.0):
        x = images(scale)[:batch]
        np.testing.assert_allclose(evaluate(right, x), evaluate(left, x), rtol=1e-5, atol=0)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_every_form_becomes_one_node(form: Form) -> None:
    model = decomposed(KRIZHEVSKY, form)
    original = copy_of(model)
    (found,) = recover_lrn(model)
    assert found.spec == KRIZHEVSKY
    assert found.output == "y"
    assert [operator for operator in operators(model) if operator != "Constant"] == ["LRN"]
    assert spec_of(lrn_nodes(model)[0]) == KRIZHEVSKY
    assert_same_values(original, model, batch=form.batch if isinstance(form.batch, int) else 2)


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_constants_are_recovered_exactly(spec: LrnSpec) -> None:
    model = decomposed(spec)
    original = copy_of(model)
    assert [found.spec for found in recover_lrn(model)] == [spec]
    assert_same_values(original, model)


@pytest.mark.parametrize(
    "spec",
    [
        LrnSpec(alpha=1.2345e-4),
        LrnSpec(bias=1.2345),
        LrnSpec(alpha=1 / 3),
        LrnSpec(alpha=1.001e-4),
        LrnSpec(beta=2 / 3),
        LrnSpec(beta=0.7512),
        LrnSpec(bias=1.001),
    ],
    ids=str,
)
def test_constants_without_a_short_decimal_are_recovered_too(spec: LrnSpec) -> None:
    model = decomposed(spec)
    original = copy_of(model)
    found = [recovered.spec for recovered in recover_lrn(model)]
    assert [one.size for one in found] == [spec.size]
    np.testing.assert_allclose(
        [found[0].alpha, found[0].beta, found[0].bias], [spec.alpha, spec.beta, spec.bias], rtol=1e-5
    )
    assert_same_values(original, model)


def test_a_window_wider_than_the_channels_is_recovered() -> None:
    spec = LrnSpec(size=2 * CHANNELS + 1, alpha=1e-3)
    model = decomposed(spec)
    original = copy_of(model)
    assert [found.spec for found in recover_lrn(model)] == [spec]
    assert_same_values(original, model)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_a_second_run_finds_nothing(form: Form) -> None:
    model = decomposed(KRIZHEVSKY, form)
    assert recover_lrn(model)
    once = graph_bytes(model)
    assert recover_lrn(model) == []
    assert graph_bytes(model) == once


def plain_sums(write: Writer, spec: LrnSpec) -> str:
    return write.sums(spec, write.mean(write.squares(), spec.size, window(spec.size)))


def scaled_after_the_bias(write: Writer, spec: LrnSpec) -> str:
    mean = write.mean(write.squares(), spec.size, window(spec.size))
    sums = write.step("Add", mean, write.constant("bias", spec.bias / spec.alpha), to="unscaled")
    return write.step("Mul", write.constant("alpha", spec.alpha), sums, to="sums")


def alpha_in_the_squares(write: Writer, spec: LrnSpec) -> str:
    scaled = write.step("Mul", "x", write.constant("root", spec.alpha**0.5), to="scaled_x")
    mean = write.mean(write.step("Mul", scaled, scaled, to="squares"), spec.size, window(spec.size))
    return write.step("Add", mean, write.constant("bias", spec.bias), to="sums")


def alpha_in_a_convolution(write: Writer, spec: LrnSpec) -> str:
    below, above = window(spec.size)
    wide = write.step("Unsqueeze", write.squares(), write.constant("axes", [1]), to="wide")
    write.initializers["kernel"] = np.full((1, 1, spec.size, 1, 1), spec.alpha / spec.size, np.float32)
    write.initializers["bias"] = np.full(1, spec.bias, np.float32)
    pads = [below, 0, 0, above, 0, 0]
    summed = write.step("Conv", wide, "kernel", "bias", to="summed", kernel_shape=[spec.size, 1, 1], pads=pads)
    return write.step("Squeeze", summed, "axes", to="sums")


def channels_last_pool(write: Writer, spec: LrnSpec) -> str:
    last = write.step("Transpose", write.squares(), to="last", perm=[0, 2, 3, 1])
    pads = [0, window(spec.size)[0], 0, window(spec.size)[1]]
    mean = write.step("AveragePool", last, to="m", kernel_shape=[1, spec.size], pads=pads, count_include_pad=1)
    return write.sums(spec, write.step("Transpose", mean, to="mean", perm=[0, 3, 1, 2]))


def shifted_slices(write: Writer, spec: LrnSpec) -> str:
    below, above = window(spec.size)
    padded = write.step("Pad", write.squares(), write.constant("pads", [0, below, 0, 0, 0, above, 0, 0]), to="padded")
    total = ""
    for shift in range(spec.size):
        ends = [write.constant(f"{end}{shift}", [shift + at]) for end, at in (("from", 0), ("to", CHANNELS))]
        part = write.step("Slice", padded, *ends, write.constant(f"axis{shift}", [1]), to=f"slice{shift}")
        total = write.step("Add", total, part, to=f"total{shift}") if total else part
    scaled = write.step("Mul", total, write.constant("alpha", spec.alpha / spec.size), to="scaled")
    return write.step("Add", scaled, write.constant("bias", spec.bias), to="sums")


WAYS_TO_SUM = (
    plain_sums, scaled_after_the_bias, alpha_in_the_squares, alpha_in_a_convolution, channels_last_pool, shifted_slices,
)  # fmt: skip


@pytest.mark.parametrize("write_sums", WAYS_TO_SUM, ids=lambda function: function.__name__)
@pytest.mark.parametrize("spec", [KRIZHEVSKY, LrnSpec(size=3, alpha=1.0), LrnSpec(size=7, alpha=1e-3)], ids=str)
def test_however_the_window_is_summed(write_sums: Callable[[Writer, LrnSpec], str], spec: LrnSpec) -> None:
    write = Writer(Form())
    write.step("Div", "x", write.power(spec, write_sums(write, spec)), to="y")
    assert_recovered(write, spec)


def assert_recovered(write: Writer, spec: LrnSpec) -> None:
    model = write.model()
    original = copy_of(model)
    assert [found.spec for found in recover_lrn(model)] == [spec]
    assert operators(model) == ["LRN"]
    assert not set(model.graph.initializers)
    assert_same_values(original, model)


def root(write: Writer, sums: str, to: str = "root") -> str:
    return write.step("Sqrt", sums, to=to)


def times_negative_power(write: Writer, sums: str, beta: float) -> None:
    write.step("Mul", "x", write.step("Pow", sums, write.constant("beta", -beta), to="power"), to="y")


def reciprocal_first(write: Writer, sums: str, beta: float) -> None:
    power = write.step("Pow", sums, write.constant("beta", beta), to="power")
    write.step("Mul", write.step("Reciprocal", power, to="inverse"), "x", to="y")


def one_over(write: Writer, sums: str, beta: float) -> None:
    power = write.step("Pow", sums, write.constant("beta", beta), to="power")
    write.step("Mul", "x", write.step("Div", write.constant("one", 1.0), power, to="inverse"), to="y")


def power_of_the_reciprocal(write: Writer, sums: str, beta: float) -> None:
    inverse = write.step("Reciprocal", sums, to="inverse")
    write.step("Mul", "x", write.step("Pow", inverse, write.constant("beta", beta), to="power"), to="y")


def square_root(write: Writer, sums: str, beta: float) -> None:
    write.step("Div", "x", root(write, sums), to="y")


def product_of_roots(write: Writer, sums: str, beta: float) -> None:
    first = root(write, sums)
    write.step("Div", "x", write.step("Mul", first, root(write, first, "fourth"), to="power"), to="y")


def quotient_of_quotients(write: Writer, sums: str, beta: float) -> None:
    first = root(write, sums)
    write.step("Div", write.step("Div", "x", first, to="half"), root(write, first, "fourth"), to="y")


def root_of_the_cube_of_the_root(write: Writer, sums: str, beta: float) -> None:
    cube = write.step("Pow", root(write, sums), write.constant("three", 3.0), to="cube")
    write.step("Div", "x", root(write, cube, "power"), to="y")


def sums_over_a_root(write: Writer, sums: str, beta: float) -> None:
    fourth = root(write, root(write, sums), "fourth")
    write.step("Div", "x", write.step("Div", sums, fourth, to="power"), to="y")


def without_a_power(write: Writer, sums: str, beta: float) -> None:
    write.step("Div", "x", sums, to="y")


def reciprocal_without_a_power(write: Writer, sums: str, beta: float) -> None:
    write.step("Mul", write.step("Reciprocal", sums, to="inverse"), "x", to="y")


WAYS_TO_DIVIDE = (
    (times_negative_power, 0.75), (reciprocal_first, 0.75), (one_over, 0.6), (power_of_the_reciprocal, 0.75),
    (square_root, 0.5), (product_of_roots, 0.75), (quotient_of_quotients, 0.75), (root_of_the_cube_of_the_root, 0.75),
    (sums_over_a_root, 0.75), (without_a_power, 1.0), (reciprocal_without_a_power, 1.0), (times_negative_power, 2.5),
)  # fmt: skip


@pytest.mark.parametrize(("divide", "beta"), WAYS_TO_DIVIDE, ids=lambda value: getattr(value, "__name__", str(value)))
def test_however_the_power_is_written(divide: Callable[[Writer, str, float], None], beta: float) -> None:
    write = Writer(Form())
    spec = replace(KRIZHEVSKY, beta=beta)
    divide(write, plain_sums(write, spec), beta)
    assert_recovered(write, spec)


@pytest.mark.parametrize("spec", [KRIZHEVSKY, LrnSpec(beta=0.5), LrnSpec(size=7, alpha=1.0, beta=0.6)], ids=str)
def test_the_banded_form_comes_back(spec: LrnSpec) -> None:
    model = decomposed(spec)
    recover_lrn(model)
    native = copy_of(model)
    assert lower_to_banded(model) == 1
    assert "LRN" not in operators(model)
    assert [found.spec for found in recover_lrn(model)] == [spec]
    assert operators(model) == ["LRN"]
    assert not set(model.graph.initializers)
    assert_same_values(native, model)


@pytest.mark.parametrize("size", [2, 4, 6, 2 * CHANNELS])
@pytest.mark.parametrize("like", ["torch", "onnx"])
def test_an_even_window_stays(size: int, like: str) -> None:
    """Whose ever it is: ONNX Runtime has no LRN of an even size."""
    spec = LrnSpec(size=size, alpha=1e-3)
    write = Writer(Form())
    mean = write.mean(write.squares(), size, window(size) if like == "torch" else window(size)[::-1])
    write.step("Div", "x", write.power(spec, write.sums(spec, mean)), to="y")
    model = write.model()
    before = graph_bytes(model)
    assert recover_lrn(model) == []
    assert graph_bytes(model) == before


@pytest.mark.parametrize("opset", [11, 13, 18, 26, 27, 28])
def test_every_opset_that_onnx_knows(opset: int) -> None:
    write = Writer(Form(opset=opset, padding="pool", expand="Reshape"))
    write.step("Div", "x", write.power(KRIZHEVSKY, plain_sums(write, KRIZHEVSKY)), to="y")
    model = write.model()
    assert [found.spec for found in recover_lrn(model)] == [KRIZHEVSKY]
    assert operators(model) == ["LRN"]


def resized(write: Writer, sides: list[int | str]) -> ir.Model:
    return model_of(write.nodes, sides, write.initializers, opset=write.form.opset)


def test_dynamic_height_and_width_are_recovered_where_nothing_is_written_for_one_size() -> None:
    write = Writer(Form(expand="Unsqueeze"))
    write.step("Div", "x", write.power(KRIZHEVSKY, plain_sums(write, KRIZHEVSKY)), to="y")
    model = resized(write, ["N", CHANNELS, "H", "W"])
    original = copy_of(model)
    assert [found.spec for found in recover_lrn(model)] == [KRIZHEVSKY]
    assert_same_values(original, model)


def test_dynamic_height_and_width_stay_where_a_reshape_is_written_for_one_size() -> None:
    write = Writer(Form(batch="N"))
    write.step("Div", "x", write.power(KRIZHEVSKY, plain_sums(write, KRIZHEVSKY)), to="y")
    model = resized(write, ["N", CHANNELS, "H", "W"])
    before = graph_bytes(model)
    assert recover_lrn(model) == []
    assert graph_bytes(model) == before


def test_a_chain_that_nobody_reads_is_none() -> None:
    write = Writer(Form())
    write.step("Div", "x", write.power(KRIZHEVSKY, plain_sums(write, KRIZHEVSKY)), to="unread")
    write.step("Relu", "x", to="y")
    assert recover_lrn(write.model()) == []
    write.step("Relu", "unread", to="unread_too")
    model = write.model()
    assert recover_lrn(model) == []
    assert operators(model)[-1] == "Relu"


def test_chains_share_constants_and_feed_each_other() -> None:
    """The second LRN reads the first, and a third the first through a ReLU; all read the same initializers."""
    write = Writer(Form(padding="pool"))
    source = "x"
    for index in range(3):
        squares = write.step("Mul", source, source, to=f"squares{index}")
        sums = write.sums(KRIZHEVSKY, write.mean(squares, 5, (2, 2), f"mean{index}"))
        power = write.power(KRIZHEVSKY, sums)
        source = write.step("Div", source, power, to=f"n{index}" if index < 2 else "y")
        for node in write.nodes:
            for names in (node.input, node.output):
                for at, name in enumerate(names):
                    names[at] = f"{name}{index}" if name in ("scaled", "sums", "power") else name
        if index == 1:
            source = write.step("Relu", source, to="relu")
    # The same shape for every mean.
    for node in write.nodes:
        for at, name in enumerate(node.input):
            if name.startswith("mean") and name.endswith("shape"):
                node.input[at] = f"mean0{name[5:]}"
    write.initializers = {
        name: array for name, array in write.initializers.items() if not name.startswith(("mean1", "mean2"))
    }
    model = write.model()
    original = copy_of(model)
    found = recover_lrn(model)
    assert [(one.output, one.spec) for one in found] == [(name, KRIZHEVSKY) for name in ("n0", "n1", "y")]
    assert operators(model) == ["LRN", "LRN", "Relu", "LRN"]
    assert not set(model.graph.initializers)
    assert_same_values(original, model)


def even_window(write: Writer) -> None:
    mean = write.mean(write.squares(), 4, window(4))
    write.step("Div", "x", write.power(KRIZHEVSKY, write.sums(KRIZHEVSKY, mean)), to="y")


def two_pools(write: Writer) -> None:
    squares = write.squares()
    both = write.step(
        "Add", write.mean(squares, 3, (1, 1), "first"), write.mean(squares, 5, (2, 2), "second"), to="two"
    )
    write.step("Div", "x", write.power(KRIZHEVSKY, write.sums(KRIZHEVSKY, both)), to="y")


def window_over_space(write: Writer) -> None:
    mean = write.step("AveragePool", write.squares(), to="mean", kernel_shape=[3, 3], pads=[1] * 4, count_include_pad=1)
    write.step("Div", "x", write.power(KRIZHEVSKY, write.sums(KRIZHEVSKY, mean)), to="y")


def window_over_channels_and_space(write: Writer) -> None:
    wide = write.expanded(write.squares(), wide=True, to="expanded")
    pads = {"pads": [1, 1, 0, 1, 1, 0], "count_include_pad": 1}
    mean = write.step("AveragePool", wide, to="pooled", kernel_shape=[3, 3, 1], **pads)
    write.step(
        "Div", "x", write.power(KRIZHEVSKY, write.sums(KRIZHEVSKY, write.expanded(mean, wide=False, to="flat"))), to="y"
    )


def extra_term(write: Writer) -> None:
    mean = write.mean(write.squares(), 5, (2, 2))
    sums = write.step("Add", write.sums(KRIZHEVSKY, mean), "squares", to="more")
    write.step("Div", "x", write.power(KRIZHEVSKY, sums), to="y")


def bias_by_channel(write: Writer) -> None:
    mean = write.mean(write.squares(), 5, (2, 2))
    write.initializers["bias_by_channel"] = np.linspace(1, 2, CHANNELS, dtype=np.float32).reshape(-1, 1, 1)
    sums = write.step("Add", write.sums(KRIZHEVSKY, mean), "bias_by_channel", to="more")
    write.step("Div", "x", write.power(KRIZHEVSKY, sums), to="y")


def other_numerator(write: Writer) -> None:
    mean = write.mean(write.squares(), 5, (2, 2))
    power = write.power(KRIZHEVSKY, write.sums(KRIZHEVSKY, mean))
    write.step("Div", write.step("Sin", "x", to="other"), power, to="y")


def numerator_and_denominator_exchanged(write: Writer) -> None:
    mean = write.mean(write.squares(), 5, (2, 2))
    write.step("Div", write.power(KRIZHEVSKY, write.sums(KRIZHEVSKY, mean)), "x", to="y")


def asymmetric_padding(write: Writer) -> None:
    mean = write.mean(write.squares(), 5, (4, 0))
    write.step("Div", "x", write.power(KRIZHEVSKY, write.sums(KRIZHEVSKY, mean)), to="y")


def padding_not_counted(write: Writer) -> None:
    wide = write.expanded(write.squares(), wide=True, to="expanded")
    pooled = write.step("AveragePool", wide, to="pooled", kernel_shape=[5, 1, 1], pads=[2, 0, 0, 2, 0, 0])
    flat = write.expanded(pooled, wide=False, to="flat")
    write.step("Div", "x", write.power(KRIZHEVSKY, write.sums(KRIZHEVSKY, flat)), to="y")


def padding_with_ones(write: Writer) -> None:
    wide = write.expanded(write.squares(), wide=True, to="expanded")
    pads = write.constant("pads", [0, 0, 2, 0, 0, 0, 0, 2, 0, 0])
    padded = write.step("Pad", wide, pads, write.constant("one", 1.0), to="padded")
    pooled = write.step("AveragePool", padded, to="pooled", kernel_shape=[5, 1, 1])
    flat = write.expanded(pooled, wide=False, to="flat")
    write.step("Div", "x", write.power(KRIZHEVSKY, write.sums(KRIZHEVSKY, flat)), to="y")


def beta_from_the_input(write: Writer) -> None:
    mean = write.mean(write.squares(), 5, (2, 2))
    beta = write.step("Mul", "x", write.constant("none", 0.0), to="nothing")
    beta = write.step("Add", beta, write.constant("beta", 0.75), to="exponent")
    write.step("Div", "x", write.step("Pow", write.sums(KRIZHEVSKY, mean), beta, to="power"), to="y")


def beta_by_channel(write: Writer) -> None:
    mean = write.mean(write.squares(), 5, (2, 2))
    write.initializers["betas"] = np.linspace(0.5, 1, CHANNELS, dtype=np.float32).reshape(-1, 1, 1)
    write.step("Div", "x", write.step("Pow", write.sums(KRIZHEVSKY, mean), "betas", to="power"), to="y")


def cubes_for_squares(write: Writer) -> None:
    cubes = write.step("Mul", write.squares(), "x", to="cubes")
    mean = write.mean(cubes, 5, (2, 2))
    write.step("Div", "x", write.power(KRIZHEVSKY, write.sums(KRIZHEVSKY, mean)), to="y")


def no_window(write: Writer) -> None:
    write.step("Div", "x", write.power(KRIZHEVSKY, write.sums(KRIZHEVSKY, write.squares())), to="y")


def no_bias(write: Writer) -> None:
    spec = replace(KRIZHEVSKY, bias=0.0)
    write.step("Div", "x", write.power(spec, write.sums(spec, write.mean(write.squares(), 5, (2, 2)))), to="y")


LOOK_ALIKES = (
    even_window, two_pools, window_over_space, window_over_channels_and_space, extra_term, bias_by_channel,
    other_numerator, numerator_and_denominator_exchanged, asymmetric_padding, padding_not_counted, padding_with_ones,
    beta_from_the_input, beta_by_channel, cubes_for_squares, no_window, no_bias,
)  # fmt: skip


@pytest.mark.parametrize("write_graph", LOOK_ALIKES, ids=lambda function: function.__name__)
def test_a_look_alike_stays_as_it_is(write_graph: Callable[[Writer], None]) -> None:
    write = Writer(Form())
    write_graph(write)
    model = write.model()
    before = graph_bytes(model)
    assert recover_lrn(model) == []
    assert graph_bytes(model) == before


def divide(write: Writer, sums: str) -> None:
    write.step("Div", "x", write.power(KRIZHEVSKY, sums), to="y")


def band(write: Writer, weights: NDArray[np.float32], bias: NDArray[np.float32] | None = None) -> str:
    """The sums as a 1x1 convolution, in which every coefficient can be chosen."""
    write.initializers["band"] = weights.astype(np.float32)[:, :, None, None]
    write.initializers["bias"] = np.full(CHANNELS, 2.0, np.float32) if bias is None else bias.astype(np.float32)
    return write.step("Conv", write.squares(), "band", "bias", to="sums")


def right_band(alpha: float = 1e-4) -> NDArray[np.float32]:
    offset = np.arange(CHANNELS)[None, :] - np.arange(CHANNELS)[:, None]
    return np.where(np.abs(offset) <= 2, np.float32(alpha / 5), np.float32(0))


def one_coefficient_off(write: Writer) -> None:
    weights = right_band()
    weights[7, 6] *= 1.0002
    divide(write, band(write, weights))


def one_coefficient_of_zero_off(write: Writer) -> None:
    weights = right_band()
    weights[2, 9] = 1e-11
    divide(write, band(write, weights))


def small_alpha_of_one_channel_off(write: Writer) -> None:
    weights = right_band(1e-8)
    weights[5] *= 1.001
    divide(write, band(write, weights))


def bias_of_one_channel_off(write: Writer) -> None:
    bias = np.full(CHANNELS, 2.0)
    bias[0] *= 1.0001
    divide(write, band(write, right_band(), bias))


def window_that_wraps_around(write: Writer) -> None:
    distance = np.abs(np.arange(CHANNELS)[None, :] - np.arange(CHANNELS)[:, None])
    divide(write, band(write, np.where(np.minimum(distance, CHANNELS - distance) <= 2, 2e-5, 0.0)))


def window_of_all_channels_normalised(write: Writer) -> None:
    """An RMS norm over the channels: one sum for all of them."""
    mean = write.step("ReduceMean", write.squares(), write.constant("axes", [1]), to="mean", keepdims=1)
    divide(write, write.sums(KRIZHEVSKY, mean))


def sums_of_one_channel_for_all(write: Writer) -> None:
    sums = plain_sums(write, KRIZHEVSKY)
    ends = [write.constant(name, [value]) for name, value in (("from", 5), ("to", 6), ("axis", 1))]
    divide(write, write.step("Slice", sums, *ends, to="middle"))


def neighbouring_pixels_leak(write: Writer) -> None:
    squares = write.squares()
    write.initializers["leak"] = np.full((CHANNELS, 1, 1, 3), 1e-11, np.float32)
    leak = write.step("Conv", squares, "leak", to="leaked", group=CHANNELS, kernel_shape=[1, 3], pads=[0, 1, 0, 1])
    sums = write.sums(KRIZHEVSKY, write.mean(squares, 5, (2, 2)))
    divide(write, write.step("Add", sums, leak, to="all"))


def linear_term(write: Writer) -> None:
    term = write.step("Mul", "x", write.constant("slope", 1e-6), to="term")
    divide(write, write.step("Add", plain_sums(write, KRIZHEVSKY), term, to="all"))


def fourth_powers(write: Writer) -> None:
    sums = plain_sums(write, KRIZHEVSKY)
    fourth = write.step("Mul", "squares", "squares", to="fourth")
    term = write.step("Mul", fourth, write.constant("small", 1e-30), to="term")
    divide(write, write.step("Add", sums, term, to="all"))


def roots_beside_the_squares(write: Writer) -> None:
    term = write.step("Mul", write.step("Sqrt", write.squares(), to="size"), write.constant("small", 1e-9), to="term")
    sums = write.sums(KRIZHEVSKY, write.mean("squares", 5, (2, 2)))
    divide(write, write.step("Add", sums, term, to="all"))


def kink(op: str, *limits: float) -> Callable[[Writer], None]:
    """An operator that does nothing at any value that a proof could try."""

    def write_graph(write: Writer) -> None:
        bounds = [write.constant(f"limit{index}", limit) for index, limit in enumerate(limits)]
        divide(write, write.step(op, plain_sums(write, KRIZHEVSKY), *bounds, to="bent"))

    write_graph.__name__ = f"kink_by_{op}"
    return write_graph


def kink_before_the_squares(write: Writer) -> None:
    bent = write.step("Min", "x", write.constant("limit", 1e18), to="bent")
    mean = write.mean(write.step("Mul", bent, bent, to="squares"), 5, (2, 2))
    divide(write, write.sums(KRIZHEVSKY, mean))


def rounded_to_integers(write: Writer) -> None:
    sums = plain_sums(write, KRIZHEVSKY)
    whole = write.step("Cast", write.step("Cast", sums, to="whole_numbers"), to="whole")
    write.nodes[-2].attribute.append(helper.make_attribute("to", TensorProto.INT64))
    write.nodes[-1].attribute.append(helper.make_attribute("to", TensorProto.FLOAT))
    divide(write, whole)


def power_that_overflows_on_the_way(write: Writer) -> None:
    high = write.step("Pow", plain_sums(write, KRIZHEVSKY), write.constant("high", 30.0), to="high_power")
    write.step("Div", "x", write.step("Pow", high, write.constant("low", 0.025), to="power"), to="y")


def exponent_that_adds_a_dimension(write: Writer) -> None:
    write.initializers["wide"] = np.full((1, 1, 1, 1, 1), 0.75, np.float32)
    power = write.step("Pow", plain_sums(write, KRIZHEVSKY), "wide", to="power")
    write.step("Div", "x", power, to="y")


def scaled_output(write: Writer) -> None:
    power = write.power(KRIZHEVSKY, plain_sums(write, KRIZHEVSKY))
    write.step("Mul", "x", write.step("Div", write.constant("three", 3.0), power, to="scaled_inverse"), to="y")


def two_different_sums(write: Writer) -> None:
    sums = plain_sums(write, KRIZHEVSKY)
    other = write.step("Add", sums, write.constant("more", 1e-4), to="other")
    power = write.step("Mul", root(write, sums), root(write, root(write, other, "second"), "fourth"), to="power")
    write.step("Div", "x", power, to="y")


def bias_from_the_shape(write: Writer) -> None:
    """At these sides it is 2, and the graph is an LRN at no other."""
    width = write.step("Gather", write.step("Shape", "x", to="shape"), write.constant("last", [3]), to="width")
    half = write.step("Div", write.step("Cast", width, to="w"), write.constant("two", 2.0), to="bias_of_width")
    write.nodes[-2].attribute.append(helper.make_attribute("to", TensorProto.FLOAT))
    mean = write.mean(write.squares(), 5, (2, 2))
    scaled = write.step("Mul", mean, write.constant("alpha", 1e-4), to="scaled")
    divide(write, write.step("Add", scaled, half, to="sums"))


NEAR_MISSES = (
    one_coefficient_off, one_coefficient_of_zero_off, small_alpha_of_one_channel_off, bias_of_one_channel_off,
    window_that_wraps_around, window_of_all_channels_normalised, sums_of_one_channel_for_all, neighbouring_pixels_leak,
    linear_term, fourth_powers, roots_beside_the_squares, kink("Abs"), kink("Relu"), kink("Max", 1e-3),
    kink("Min", 3e38), kink("Clip", 0.0, 3e38), kink_before_the_squares, rounded_to_integers,
    power_that_overflows_on_the_way, exponent_that_adds_a_dimension, scaled_output, two_different_sums,
    bias_from_the_shape,
)  # fmt: skip


@pytest.mark.parametrize("write_graph", NEAR_MISSES, ids=lambda function: function.__name__)
def test_a_near_miss_stays_as_it_is(write_graph: Callable[[Writer], None]) -> None:
    write = Writer(Form())
    write_graph(write)
    model = write.model()
    assert evaluate(model, images(1.0)).size, "the graph runs"
    before = graph_bytes(model)
    assert recover_lrn(model) == []
    assert graph_bytes(model) == before


@pytest.mark.parametrize(("batch", "count"), [(1, 1), ("N", 0), (2, 0)])
def test_the_sums_of_the_first_image_are_those_of_all_only_where_it_is_alone(batch: int | str, count: int) -> None:
    write = Writer(Form(expand="Unsqueeze", batch=batch))
    ends = [write.constant(name, [value]) for name, value in (("from", 0), ("to", 1), ("axis", 0))]
    divide(write, write.step("Slice", plain_sums(write, KRIZHEVSKY), *ends, to="first"))
    model = write.model()
    before = graph_bytes(model)
    assert len(recover_lrn(model)) == count
    assert (graph_bytes(model) == before) == (count == 0)


def test_the_bands_of_the_near_misses_are_otherwise_right() -> None:
    write = Writer(Form())
    divide(write, band(write, right_band()))
    assert_recovered(write, KRIZHEVSKY)


def test_a_constant_that_the_caller_may_feed_is_none() -> None:
    model = decomposed(KRIZHEVSKY)
    model.graph.inputs.append(model.graph.initializers["alpha"])
    before = graph_bytes(model)
    assert recover_lrn(model) == []
    assert graph_bytes(model) == before


def test_a_branch_that_the_shape_chooses_must_be_right_at_every_batch() -> None:
    """The If adds nothing at a batch of two and something at a batch of one."""

    def branch(name: str, extra: float) -> GraphProto:
        term = numpy_helper.from_array(np.asarray(extra, np.float32))
        nodes = [
            helper.make_node("Constant", [], [f"{name}.c"], value=term),
            helper.make_node("Add", ["inside", f"{name}.c"], [name]),
        ]
        return helper.make_graph(nodes, name, [], [helper.make_tensor_value_info(name, TensorProto.FLOAT, None)])

    for extra, count in ((0.0, 1), (1e-3, 0)):
        write = Writer(Form(expand="Unsqueeze", batch="N"))
        write.step("Identity", plain_sums(write, KRIZHEVSKY), to="inside")
        batch = write.step("Gather", write.step("Shape", "x", to="shape"), write.constant("first", [0]), to="batch")
        one = write.step("Equal", batch, write.constant("one", [1]), to="one_image")
        branches = {"then_branch": branch("then", extra), "else_branch": branch("else", 0.0)}
        divide(write, write.step("If", one, to="chosen", **branches))
        model = write.model()
        before = graph_bytes(model)
        assert len(recover_lrn(model)) == count
        assert operators(model) == ["LRN"] if count else graph_bytes(model) == before


def test_an_unknown_channel_count_stays_as_it_is() -> None:
    model = decomposed(KRIZHEVSKY)
    image = model.graph.inputs[0]
    image.shape = ir.Shape([2, "C", SIDE, SIDE])
    assert recover_lrn(model) == []
    assert "LRN" not in operators(model)


def test_squares_that_something_else_reads_stay_for_it() -> None:
    write = Writer(Form())
    mean = write.mean(write.squares(), 5, (2, 2))
    normalised = write.step("Div", "x", write.power(KRIZHEVSKY, write.sums(KRIZHEVSKY, mean)), to="normalised")
    write.step("Add", normalised, "squares", to="y")
    model = write.model()
    original = copy_of(model)
    assert [found.spec for found in recover_lrn(model)] == [KRIZHEVSKY]
    assert sorted(operators(model)) == ["Add", "LRN", "Mul"]
    assert_same_values(original, model)


class Normalisations(nn.Module):
    """Every spec one after the other, as torch writes LRN."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(LocalResponseNorm(spec) for spec in SPECS)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x) * 20
        return x


@cache
def torch_export(dynamic: bool) -> ir.Model:
    """What torch's exporter makes of them."""
    shapes = ({0: torch.export.Dim("batch")},) if dynamic else None
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            Normalisations().eval(), (torch.zeros(2, CHANNELS, SIDE, SIDE),), dynamo=True, dynamic_shapes=shapes,
            external_data=False, verbose=False,
        )  # fmt: skip
    assert program is not None
    return inferred_copy(ir.from_proto(program.model_proto))


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_what_torch_exports_is_recovered_in_order(dynamic: bool) -> None:
    original = torch_export(dynamic)
    assert "LRN" not in operators(original)
    model = copy_of(original)
    assert tuple(found.spec for found in recover_lrn(model)) == SPECS
    assert set(operators(model)) == {"LRN", "Mul"}
    assert recover_lrn(model) == []
    x = images(20.0)
    np.testing.assert_allclose(evaluate(model, x), evaluate(original, x), rtol=2e-5, atol=0)
    expected: NDArray[np.float64] = x.astype(np.float64)
    for spec in SPECS:
        expected = lrn_reference(expected, spec) * 20
    np.testing.assert_allclose(evaluate(model, x), expected, rtol=2e-5, atol=0)


@pytest.mark.parametrize(("variant", "bias"), [("paper", 2.0), ("caffenet", 1.0)])
def test_the_networks_norms_are_recovered_with_their_own_bias(variant: str, bias: float) -> None:
    assert [found.spec for found in exported(variant).recovered] == [LrnSpec(bias=bias)] * 2
    assert [spec_of(node) for node in lrn_nodes(exported(variant).model)] == [LrnSpec(bias=bias)] * 2
