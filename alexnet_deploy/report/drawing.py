"""Draws a variant as the papers do: a row of boxes whose height is the side of the map, and whose width its depth."""

from __future__ import annotations

import math
from typing import Any

from alexnet_deploy.report.markup import escape

_GAP, _TOP, _MIDDLE = 26, 70, 190
_COLOURS = {"input": "#94a3b8", "conv": "#2563eb", "lrn": "#d97706", "pool": "#64748b", "linear": "#7c3aed"}
_NAMES = {"input": "image", "conv": "convolution", "lrn": "LRN", "pool": "max pool", "linear": "fully connected"}


def svg_from_layers(document: dict[str, Any]) -> str:
    """Returns a standalone SVG of a document of `inspect --variant`."""
    side = document["network"]["image_size"]
    image = {"name": "input", "type": "input", "output": [3, side, side], "kernel": 0, "stride": 0}
    boxes: list[dict[str, Any]] = [image]
    boxes += [layer for layer in document["layers"] if layer["type"] in _COLOURS]
    x, parts = 24.0, []
    for index, box in enumerate(boxes):
        width, height = _size(box["output"], side)
        y = _MIDDLE - height / 2
        shift = min(14.0, height / 5) if len(box["output"]) == 3 else 0.0
        parts.append(_box(box, x, y, width, height, shift))
        # Neighbouring labels alternate between two lines so that they do not run into each other.
        label_y = _TOP - 32 + (index % 2) * 16
        middle = x + width / 2
        parts.append(
            f'<text x="{middle:.0f}" y="{label_y}" text-anchor="middle" font-weight="600">{escape(box["name"])}</text>'
            f'<line x1="{middle:.0f}" x2="{middle:.0f}" y1="{label_y + 4}" y2="{y - shift - 3:.0f}" stroke="#cbd5e1"/>'
            f'<text x="{middle:.0f}" y="{_MIDDLE + 132 + (index % 2) * 15}" text-anchor="middle">'
            f"{'x'.join(map(str, box['output']))}</text>"
        )
        x += width + _GAP
    total = f"{sum(layer['parameters'] for layer in document['layers']):,} parameters, "
    total += f"{sum(layer['macs'] for layer in document['layers']) / 1e6:,.0f} million multiply-adds"
    title = f"{document['network']['variant']}: {document['summary']}; {total}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{x:.0f}" height="400" viewBox="0 0 {x:.0f} 400" '
        'font-family="system-ui, sans-serif" font-size="12" fill="#1e293b">'
        f'<rect width="100%" height="100%" fill="#fff"/><text x="24" y="22" font-size="14">{escape(title)}</text>'
        f"{''.join(parts)}{_legend()}</svg>\n"
    )


def _size(output: list[int], image_side: int) -> tuple[float, float]:
    if len(output) == 1:
        return 22.0, 20 + 22 * math.log10(max(output[0], 1))
    channels, height, _ = output
    return max(26.0, 7 * math.log2(channels + 1)), 24 + 170 * math.sqrt(height / image_side)


def _box(box: dict[str, Any], x: float, y: float, width: float, height: float, shift: float) -> str:
    colour = _COLOURS[box["type"]]
    kernel = f", {box['kernel']}x{box['kernel']}" if box["kernel"] and box["type"] != "lrn" else ""
    stride = f" stride {box['stride']}" if box["stride"] else ""
    title = f"<title>{escape(box['name'])}: {_NAMES[box['type']]}{kernel}{stride}</title>"
    front = (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{colour}" fill-opacity=".85"/>'
    )
    if not shift:
        return f"<g>{title}{front}</g>"
    top = (
        f"{x:.1f},{y:.1f} {x + shift:.1f},{y - shift:.1f} "
        f"{x + width + shift:.1f},{y - shift:.1f} {x + width:.1f},{y:.1f}"
    )
    right = (
        f"{x + width:.1f},{y:.1f} {x + width + shift:.1f},{y - shift:.1f} "
        f"{x + width + shift:.1f},{y + height - shift:.1f} {x + width:.1f},{y + height:.1f}"
    )
    return (
        f'<g>{title}{front}<polygon points="{top}" fill="{colour}" fill-opacity=".55"/>'
        f'<polygon points="{right}" fill="{colour}" fill-opacity=".7"/></g>'
    )


def _legend() -> str:
    parts, x = [], 24
    for kind, colour in _COLOURS.items():
        parts.append(
            f'<rect x="{x}" y="372" width="12" height="12" fill="{colour}"/>'
            f'<text x="{x + 18}" y="382">{_NAMES[kind]}</text>'
        )
        x += 40 + 7 * len(_NAMES[kind])
    return "".join(parts)
