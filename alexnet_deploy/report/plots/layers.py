"""Where the time of one inference goes, layer by layer, against what the machine's peaks allow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from alexnet_deploy.report.plots.canvas import READOUT, Scale, above, line, mark, rect, svg, text

_WIDTH, _LEFT, _RIGHT, _ROW, _TOP, _BAR = 344.0, 70.0, 206.0, 20.0, READOUT, 13.0


def layers(profile: Mapping[str, Any], longest_ms: float, label: str) -> str:
    """One bar a layer and one for what belongs to none, on a scale up to `longest_ms`."""
    bars = [dict(layer) for layer in profile["layers"]]
    bars.append({"name": "other", "ms": profile["other_ms"], "limit_ms": None, "bound": None})
    scale = Scale(low=0, high=max(longest_ms, 1e-9), start=_LEFT, stop=_RIGHT)
    total = profile["total_ms"] or 1.0
    parts = [above("ms · share of the limit, and what bounds it")]
    parts += [_layer(bar, total, _TOP + index * _ROW, scale) for index, bar in enumerate(bars)]
    return svg(_WIDTH, _TOP + len(bars) * _ROW + 4, label, parts, "half")


def longest_layer(profiles: list[dict[str, Any]]) -> float:
    """The longest bar or limit among profiles, for one scale to them all."""
    values = [
        value for profile in profiles for layer in profile["layers"] for value in (layer["ms"], layer["limit_ms"])
    ]
    values += [profile["other_ms"] for profile in profiles]
    return max((value for value in values if value is not None), default=1.0)


def _layer(bar: Mapping[str, Any], total: float, top: float, scale: Scale) -> str:
    ms, limit, bound = bar["ms"] or 0.0, bar["limit_ms"], bar["bound"]
    words = f"{bar['name']}: {ms:.3g} ms, {100 * ms / total:.0f} % of the time"
    figure = f"{ms:.2f}"
    drawn = rect(_LEFT, top, max(0.6, scale(ms) - _LEFT), _BAR, "layer-other" if bar["name"] == "other" else "layer")
    if limit is not None and ms:
        reached = f"{100 * limit / ms:.0f} %"
        words += f"; the limit is {limit:.3g} ms ({bound or 'unknown'}), {reached} of it reached"
        figure += f" · {reached} {bound or ''}"
        drawn += line(scale(limit), top - 2, scale(limit), top + _BAR + 2, f"limit {_bound_class(bound)}")
    end = max(scale(ms), scale(limit) if limit is not None else 0.0)
    base = top + _BAR - 2
    name = str(bar["name"])
    shown = name if len(name) <= 9 else f"{name[:8]}…"
    outside = text(_LEFT - 7, base, shown, "label", "end") + text(end + 6, base, figure, "axis")
    # The figures stand beside the bars: seventy stops of the Tab key would be in the way of everything below.
    return mark("", words, drawn, focus=False) + outside


def _bound_class(bound: str | None) -> str:
    return bound if bound in ("memory", "compute") else ""
