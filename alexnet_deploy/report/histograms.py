"""A picture of a calibration table: what each activation holds, and where each method saturates."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_deploy.errors import InputError
from alexnet_deploy.precision.histogram import BINS, Histogram
from alexnet_deploy.printable import printable

_COLOURS = {"max": "#444444", "percentile": "#c05500", "entropy": "#0060a8", "mse": "#5a8a00"}
_COLUMNS, _POINTS = 3, 128
_SUFFIXES = ("svg", "png", "pdf")


def picture_from_table(document: dict[str, Any], path: Path) -> bytes:
    """Draws the document that `inspect` makes of a calibration table.

    Args:
        document: With `tensors`, `method` and `images`.
        path: Its suffix says which format: svg, png or pdf.

    Raises:
        InputError: The suffix is another one.
    """
    kind = path.suffix.removeprefix(".").lower()
    if kind not in _SUFFIXES:
        raise InputError(
            f"{path} has no suffix that can be drawn", got=path.suffix or "none", expected=", ".join(_SUFFIXES)
        )
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    # The same table gives the same file.
    matplotlib.rcParams["svg.hashsalt"] = "alexnet-deploy"
    tensors = document["tensors"]
    rows = -(-len(tensors) // _COLUMNS)
    figure, axes = pyplot.subplots(rows, _COLUMNS, figsize=(4 * _COLUMNS, 2.3 * rows), squeeze=False)
    for axis in axes.flat[len(tensors) :]:
        axis.set_axis_off()
    for axis, (name, entry) in zip(axes.flat, tensors.items(), strict=False):
        _draw(axis, name, entry, document["method"])
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="upper center", ncols=len(_COLOURS), frameon=False)
    figure.supxlabel("magnitude of the activation", fontsize=9)
    figure.supylabel(f"share of values, {document['images']} images", fontsize=9)
    figure.tight_layout(rect=(0.01, 0, 1, 1 - 0.35 / (2.3 * rows)))
    target = io.BytesIO()
    figure.savefig(target, format=kind, dpi=110, metadata={"Date": None} if kind == "svg" else None)
    pyplot.close(figure)
    return target.getvalue()


def _draw(axis: Any, name: str, entry: dict[str, Any], method: str) -> None:
    histogram = Histogram.from_json(entry["histogram"], entry["min"], entry["max"])
    counts = histogram.magnitudes.astype(np.float64)
    # A ReLU's zeros would leave no room for the rest.
    zeros, counts[0] = counts[0], 0
    grouped = counts.reshape(_POINTS, -1).sum(axis=1)
    edges = np.linspace(0, BINS * histogram.width, _POINTS + 1)
    shares = grouped / max(1.0, counts.sum() + zeros)
    axis.stairs(shares, edges, fill=True, color="#c9d6e3")
    if shares.any():
        axis.set_yscale("log")
    for label, colour in _COLOURS.items():
        width = 2.0 if label == method else 1.0
        axis.axvline(entry["thresholds"][label], color=colour, linewidth=width, label=label)
    axis.set_xlim(0, 1.05 * max(-entry["min"], entry["max"], histogram.width))
    # A name with dollar signs is no formula.
    axis.set_title(
        f"{printable(name)}  ({100 * zeros / max(1.0, counts.sum() + zeros):.0f} % in the first bin)",
        fontsize=9,
        parse_math=False,
    )
    axis.tick_params(labelsize=7)
