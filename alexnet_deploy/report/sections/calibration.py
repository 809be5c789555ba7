"""INT8: the histograms of the activations, and the thresholds of the four methods."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from alexnet_deploy.report.markup import escape, paragraph
from alexnet_deploy.report.plots.histograms import METHODS, histogram
from alexnet_deploy.report.words import plural

_LINES = {
    "max": "an unbroken line",
    "percentile": "long dashes",
    "entropy": "dots",
    "mse": "dashes and dots",
}


def histograms(document: Mapping[str, Any]) -> str:
    """One small picture a tensor."""
    found = document.get("calibration")
    if not found or not found["tensors"]:
        return ""
    method = str(found["method"])
    lines = ", ".join(f"{name} {_LINES[name]}" for name in METHODS)
    how = (
        f"Magnitudes of the activations over {plural(found['images'], 'image')}; each axis of shares is logarithmic. "
        f"What lies right of a threshold saturates. The chosen method is {method}, drawn heavy and red; {lines}."
    )
    pictures = []
    for tensor in found["tensors"]:
        values = tensor["thresholds"]
        ends = ", ".join(f"{name} {values[name]:.3g}" for name in METHODS if values.get(name) is not None)
        zeros = f"; {100 * tensor['zero_share']:.0f} % zeros" if tensor.get("zero_share") is not None else ""
        pictures.append(
            f"<figure><h4>{escape(str(tensor['name']))}</h4>{histogram(tensor, method)}"
            f"<figcaption>{escape(ends)}{escape(zeros)}{escape(_clipped(tensor, method))}</figcaption></figure>"
        )
    return paragraph(how, "soft") + f'<div class="grid">{"".join(pictures)}</div>'


def _clipped(tensor: Mapping[str, Any], method: str) -> str:
    share = (tensor.get("beyond") or {}).get(method)
    return f"; {100 * share:.2g} % saturate" if share else ""
