"""What every implementation of Local Response Normalization is asked, by name, and how its answer is judged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from alexnet_deploy.specs import LrnSpec
from tests.lrn.implementations import IMPLEMENTATIONS, Array, Implementation, Shape, expected

Group = Literal["odd", "even", "edge", "half", "nan"]
Generator = Callable[[np.random.Generator, Shape], NDArray[np.float64]]
FP16_MAX = float(np.finfo(np.float16).max)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One question.

    Attributes:
        name: As the tests print it.
        group: The column of the table that it goes into.
        spec: The window and the constants.
        values: Makes the input.
        shape: `(N, C, H, W)`. As many images as channels where nothing else is said: onnx 1.23's evaluator counts
            its loop over the channels by the batch.
        dtype: Of the input.
        main: Whether slow implementations are asked too.
    """

    name: str
    group: Group
    spec: LrnSpec
    values: Generator
    shape: Shape
    dtype: str = "float32"
    main: bool = False

    def x(self) -> Array:
        """The input, the same on every call."""
        random = np.random.default_rng(0)
        array: Array = self.values(random, self.shape).astype(self.dtype)
        return array


def _logarithmic(random: np.random.Generator, shape: Shape, lowest: float, highest: float) -> NDArray[np.float64]:
    """Either sign, magnitudes evenly over the powers of ten."""
    x: NDArray[np.float64] = 10 ** random.uniform(lowest, highest, shape) * random.choice([-1, 1], shape)
    return x


def ordinary(random: np.random.Generator, shape: Shape) -> NDArray[np.float64]:
    """Activations as a trained network has them."""
    return random.normal(0, 3, shape)


def spread(random: np.random.Generator, shape: Shape) -> NDArray[np.float64]:
    """Magnitudes from a thousandth to the largest of float16 side by side, the largest among them."""
    x = _logarithmic(random, shape, -3, np.log10(FP16_MAX))
    x[random.random(shape) < 0.05] = FP16_MAX
    return x


def vast(random: np.random.Generator, shape: Shape) -> NDArray[np.float64]:
    """To 1e15, of which FP32 still holds the square."""
    return _logarithmic(random, shape, -3, 15)


def largest(random: np.random.Generator, shape: Shape) -> NDArray[np.float64]:
    """The largest of float16 everywhere."""
    return FP16_MAX * random.choice([-1.0, 1.0], shape)


def zeros(_random: np.random.Generator, shape: Shape) -> NDArray[np.float64]:
    """Nothing at all."""
    return np.zeros(shape)


def rectified(random: np.random.Generator, shape: Shape) -> NDArray[np.float64]:
    """As behind a ReLU, with half of the values and two images zero."""
    x = np.maximum(random.normal(0, 30, shape), 0)
    x[:2] = 0
    return x


def denormal(random: np.random.Generator, shape: Shape) -> NDArray[np.float64]:
    """Below the smallest normal number of float32, down to its least."""
    return _logarithmic(random, shape, -45, -38)


def half_denormal(random: np.random.Generator, shape: Shape) -> NDArray[np.float64]:
    """Below the smallest normal number of float16, down to its least."""
    return _logarithmic(random, shape, -7.5, -4.5)


def with_nan(random: np.random.Generator, shape: Shape) -> NDArray[np.float64]:
    """A NaN in the first, a middle and the last channel, in pixels of their own."""
    x = random.normal(0, 3, shape)
    x[0, 0, 0, 0] = x[0, shape[1] // 2, 2, 1] = x[-1, -1, 1, -1] = np.nan
    return x


PAPER = LrnSpec(size=5, alpha=1e-4, beta=0.75, bias=2.0)
WHOLE = LrnSpec(size=5, alpha=1.0, beta=0.75, bias=1.0)
SMALL, ONE_CHANNEL, THREE_CHANNELS = (7, 7, 3, 5), (1, 1, 5, 7), (3, 3, 3, 4)
# Several tiles of the kernel in either layout, some of them partly outside, and groups in the banded form.
MANY_CHANNELS = (1, 80, 5, 7)

_ODD = {
    "window 1": LrnSpec(size=1, alpha=1.0, beta=0.75, bias=1.0),
    "window 3, caffe": LrnSpec(size=3, alpha=5e-5, beta=0.75, bias=1.0),
    "window 3, beta 0.5": LrnSpec(size=3, alpha=1.0, beta=0.5, bias=1.0),
    "window 5, alpha 1": WHOLE,
    "window 5, beta 0.3": LrnSpec(size=5, alpha=1.0, beta=0.3, bias=2.0),
    "window 5, beta 1.3": LrnSpec(size=5, alpha=0.1, beta=1.3, bias=1.0),
    "window 7, beta 1": LrnSpec(size=7, alpha=1e-2, beta=1.0, bias=2.0),
    "window 9, beta 0.6": LrnSpec(size=9, alpha=0.5, beta=0.6, bias=1.0),
}
_EVEN = {
    "window 2": LrnSpec(size=2, alpha=1.0, beta=0.75, bias=1.0),
    "window 4, beta 0.5": LrnSpec(size=4, alpha=1e-2, beta=0.5, bias=2.0),
    "window 4, beta 0.6": LrnSpec(size=4, alpha=1e-3, beta=0.6, bias=1.0),
    "window 6, beta 1": LrnSpec(size=6, alpha=1.0, beta=1.0, bias=1.0),
}
_MAIN_SPECS = (WHOLE, _ODD["window 3, beta 0.5"], _ODD["window 5, beta 1.3"], _ODD["window 7, beta 1"])
_MAIN_EVEN = (_EVEN["window 2"], _EVEN["window 4, beta 0.6"])

CASES = (
    Case(name="80 channels", group="odd", spec=PAPER, values=ordinary, shape=MANY_CHANNELS, main=True),
    Case(name="paper, ordinary", group="odd", spec=PAPER, values=ordinary, shape=SMALL),
    Case(name="paper, spread", group="odd", spec=PAPER, values=spread, shape=SMALL, main=True),
    Case(name="paper, to 1e15", group="odd", spec=PAPER, values=vast, shape=SMALL),
    Case(name="paper, largest", group="odd", spec=PAPER, values=largest, shape=SMALL),
    Case(name="paper, rectified", group="odd", spec=PAPER, values=rectified, shape=SMALL, main=True),
    Case(name="paper, zeros", group="odd", spec=PAPER, values=zeros, shape=SMALL),
    Case(name="paper, denormals", group="odd", spec=PAPER, values=denormal, shape=SMALL, main=True),
    *(
        Case(
            name=f"{name}, {values.__name__}",
            group="odd",
            spec=spec,
            values=values,
            shape=SMALL,
            main=values is spread and spec in _MAIN_SPECS,
        )
        for name, spec in _ODD.items()
        for values in (ordinary, spread)
    ),
    *(
        Case(
            name=f"{name}, {values.__name__}",
            group="even",
            spec=spec,
            values=values,
            shape=SMALL,
            main=values is spread and spec in _MAIN_EVEN,
        )
        for name, spec in _EVEN.items()
        for values in (ordinary, spread)
    ),
    Case(
        name="window 8 of 3 channels",
        group="even",
        spec=LrnSpec(size=8, alpha=0.1),
        values=spread,
        shape=THREE_CHANNELS,
    ),
    Case(name="window 5 of 3 channels", group="edge", spec=WHOLE, values=spread, shape=THREE_CHANNELS),
    Case(
        name="window 21 of 3 channels",
        group="edge",
        spec=LrnSpec(size=21, alpha=1e-2, bias=2.0),
        values=spread,
        shape=THREE_CHANNELS,
        main=True,
    ),
    Case(name="one channel", group="edge", spec=WHOLE, values=spread, shape=ONE_CHANNEL, main=True),
    Case(
        name="one channel, window 1", group="edge", spec=LrnSpec(size=1, alpha=1e-4), values=spread, shape=ONE_CHANNEL
    ),
    *(
        Case(name=f"half: {name}", group="half", spec=spec, values=values, shape=shape, dtype="float16", main=main)
        for name, spec, values, shape, main in (
            ("paper, ordinary", PAPER, ordinary, SMALL, False),
            ("paper, spread", PAPER, spread, SMALL, True),
            ("paper, largest", PAPER, largest, SMALL, True),
            ("paper, zeros", PAPER, zeros, SMALL, False),
            ("paper, denormals", PAPER, half_denormal, SMALL, True),
            ("80 channels, spread", PAPER, spread, MANY_CHANNELS, False),
            ("alpha 1, largest", WHOLE, largest, SMALL, True),
            ("alpha 1, spread", WHOLE, spread, SMALL, True),
            ("alpha 1e-9, spread", LrnSpec(size=5, alpha=1e-9), spread, SMALL, True),
            ("beta 1, largest", LrnSpec(size=7, alpha=1.0, beta=1.0), largest, SMALL, False),
            ("beta 0.5, spread", _ODD["window 3, beta 0.5"], spread, SMALL, False),
            ("beta 0.3, spread", _ODD["window 5, beta 0.3"], spread, SMALL, False),
            ("window 4, spread", _EVEN["window 4, beta 0.5"], spread, SMALL, False),
            ("one channel, spread", WHOLE, spread, ONE_CHANNEL, False),
        )
    ),
    Case(name="NaN", group="nan", spec=PAPER, values=with_nan, shape=SMALL, main=True),
    Case(name="NaN, even window", group="nan", spec=_EVEN["window 4, beta 0.6"], values=with_nan, shape=SMALL),
    Case(name="NaN, 80 channels", group="nan", spec=PAPER, values=with_nan, shape=MANY_CHANNELS),
    Case(name="NaN, half", group="nan", spec=PAPER, values=with_nan, shape=SMALL, dtype="float16", main=True),
)
QUESTIONS = tuple(
    (implementation, case)
    for implementation in IMPLEMENTATIONS
    for case in CASES
    if case.main or not implementation.slow
)

# Of the oracle's value, element by element; and units in the last place of float16.
FP32_BOUND, FP16_BOUND = 2e-6, 2.0
# Below its smallest normal number FP32 has a fixed step of 1.4e-45, a growing share of what it holds, and processors
# may round to zero there: a relative bound means nothing.
_FP32_TINY = float(np.finfo(np.float32).tiny)
# An answer beyond the bound, but recognizably the norm.
_INEXACT = 0.05


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What an implementation made of a case.

    Attributes:
        kind: `conforms` within the bound; `inexact` within 5%; `wrong` beyond; `vanishes` where zeros stand for
            numbers; `not finite` where NaN or infinity does; `refused`. Of a NaN in the input: `window` where it is in
            the oracle's places alone; `pixel` in all channels of those pixels; `onwards` from its window to the last
            channel; `lost` where a place lacks it; `strewn` otherwise.
        error: The worst relative error in FP32, or units in the last place in FP16, over finite values.
        reason: The exception, where it was refused.
        within: Whether all that is finite in both is within the bound.
    """

    kind: str
    error: float = float("nan")
    reason: str = ""
    within: bool = False


@cache
def outcome_of(implementation: Implementation, case: Case) -> Outcome:
    """Asks, once."""
    x = case.x()
    before = x.copy()
    try:
        got = implementation.run(x, case.spec)
    # What a runtime raises is what is recorded, and runtimes share no type.
    except Exception as exc:
        return Outcome(kind="refused", reason=f"{type(exc).__name__}: {exc}".strip())
    np.testing.assert_array_equal(x, before)
    return judged(got, expected(x, case.spec, implementation), x.dtype)


def judged(got: Array, wanted: NDArray[np.float64], dtype: np.dtype[np.floating]) -> Outcome:
    """Compares an answer with the oracle's."""
    assert got.shape == wanted.shape and got.dtype == dtype, (got.shape, got.dtype)
    values = got.astype(np.float64)
    both = np.isfinite(values) & np.isfinite(wanted)
    errors = errors_of(values[both], wanted[both], dtype)
    worst = float(errors.max(initial=0))
    within = worst <= (FP16_BOUND if dtype == np.float16 else FP32_BOUND)
    if np.isnan(wanted).any():
        return Outcome(kind=_spread_of(np.isnan(values), np.isnan(wanted)), error=worst, within=within)
    if not both.all():
        return Outcome(kind="not finite", error=worst)
    if within:
        return Outcome(kind="conforms", error=worst, within=True)
    beyond = np.abs(values - wanted) > _INEXACT * np.abs(wanted)
    off = beyond & (errors.reshape(wanted.shape) > (FP16_BOUND if dtype == np.float16 else FP32_BOUND))
    kind = "inexact" if not off.any() else "vanishes" if bool((values[off] == 0).all()) else "wrong"
    return Outcome(kind=kind, error=worst)


def errors_of(
    got: NDArray[np.float64], wanted: NDArray[np.float64], dtype: np.dtype[np.floating]
) -> NDArray[np.float64]:
    """Relative errors in FP32, units in the last place in FP16; where nothing is wanted anything is endlessly wrong."""
    differences = np.abs(got - wanted)
    if dtype == np.float16:
        spacing: NDArray[np.float64] = np.spacing(np.abs(wanted).astype(np.float16)).astype(np.float64)
        return differences / spacing
    differences = np.maximum(differences - _FP32_TINY, 0)
    nothing = wanted == 0
    errors = differences / np.where(nothing, 1, np.abs(wanted))
    return np.where(nothing & (differences > 0), np.inf, errors)


def _spread_of(got: NDArray[np.bool_], wanted: NDArray[np.bool_]) -> str:
    if (wanted & ~got).any():
        return "lost"
    if np.array_equal(got, wanted):
        return "window"
    if np.array_equal(got, np.logical_or.accumulate(wanted, axis=1)):
        return "onwards"
    if np.array_equal(got, np.broadcast_to(wanted.any(axis=1, keepdims=True), got.shape)):
        return "pixel"
    return "strewn"
