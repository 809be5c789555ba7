"""What the activations held when they were calibrated, and where each method saturates."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from alexnet_deploy.report.plots.canvas import Scale, line, svg, text, x_axis

METHODS = ("max", "percentile", "entropy", "mse")
_WIDTH, _LEFT, _RIGHT, _TOP, _BOTTOM = 290.0, 40.0, 282.0, 10.0, 124.0
# A histogram of empty bins and of one full bin has to have a range too.
_LOWEST_DECADES = 2


def histogram(tensor: Mapping[str, Any], chosen: str) -> str:
    """The shares of a tensor's magnitudes on a logarithmic axis, with a line for each method's threshold."""
    limit, shares = float(tensor["limit"]) or 1.0, [float(share) for share in tensor["shares"]]
    thresholds = {name: value for name, value in tensor["thresholds"].items() if name in METHODS and value is not None}
    full = [share for share in shares if share > 0] or [1.0]
    low = 10.0 ** math.floor(math.log10(min(full)))
    high = max(max(full) * 1.6, low * 10.0**_LOWEST_DECADES)
    end = max([limit, *thresholds.values()])
    x = Scale(low=0, high=end, start=_LEFT, stop=_RIGHT)
    y = Scale(low=low, high=high, start=_BOTTOM, stop=_TOP, logarithmic=True)
    parts = [f'<path class="histogram" d="{_outline(shares, limit, x, y)}"/>']
    parts += x_axis(x, _BOTTOM, _BOTTOM + 4, "", lambda value: f"{value:g}", 6)
    for tick in y.ticks(5):
        parts.append(text(_LEFT - 5, y(tick) + 4, _power(tick), "axis", "end"))
    # The chosen one is drawn last: it must not be hidden by one of nearly the same value.
    for name in sorted(thresholds, key=lambda name: name == chosen):
        kind = f"threshold {name}" + (" chosen" if name == chosen else "")
        drawn = line(x(thresholds[name]), _TOP, x(thresholds[name]), _BOTTOM, kind)
        parts.append(f"<g><title>{name}: {thresholds[name]:.4g}</title>{drawn}</g>")
    parts.append(line(_LEFT, _BOTTOM, _RIGHT, _BOTTOM, "base"))
    return svg(_WIDTH, _BOTTOM + 24, f"magnitudes of {tensor['name']}", parts, "small")


def _outline(shares: list[float], limit: float, x: Scale, y: Scale) -> str:
    width = limit / max(1, len(shares))
    return "".join(
        f"M{x(index * width):.1f} {y.start:.1f}V{y(max(share, y.low)):.1f}H{x((index + 1) * width):.1f}V{y.start:.1f}Z"
        for index, share in enumerate(shares)
        if share > 0
    )


def _power(value: float) -> str:
    exponent = round(math.log10(value))
    digits = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
    return f"10{str(exponent).translate(digits)}" if math.isclose(value, 10.0**exponent) else f"{value:g}"
