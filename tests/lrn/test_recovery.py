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
from onnx import NodeProto, helper, numpy_helper
from torch import Tensor, nn

from alexnet_deploy.graph import copy_of, graph_bytes, inferred_copy
from alexnet_deploy.lrn.lowering import lrn_nodes, spec_of
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
