"""What the machine would allow: time by layer, and the roofline."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from alexnet_deploy.report.markup import escape, figure, heading, paragraph, scrolled, table
from alexnet_deploy.report.plots.canvas import shapes_in_words
from alexnet_deploy.report.plots.layers import layers, longest_layer
from alexnet_deploy.report.plots.roofline import roofline, roofs_of, rows_with_limits
from alexnet_deploy.report.words import label_of_session, with_prefix


def profiles(document: Mapping[str, Any]) -> str:
    """One small picture a profile; those of one batch size share a scale."""
    found = document.get("profiles") or []
    parts = []
    for batch in sorted({profile["batch"] for profile in found}):
        alike = [profile for profile in found if profile["batch"] == batch]
        longest = longest_layer(alike)
        pictures = []
        for profile in alike:
            label = label_of_session(document, profile["session"])
            picture = layers(profile, longest, f"time by layer of {label} at batch {batch}")
            title = f"{label}, {profile['total_ms']:.2f} ms"
            region = scrolled(title, picture)
            pictures.append(f"<figure><h4>{escape(title)}</h4>{region}</figure>")
        parts.append(f'{heading(f"Batch {batch}")}<div class="grid two">{"".join(pictures)}</div>')
    if not parts:
        return ""
    how = (
        "Milliseconds a layer; pictures of one batch size share a scale. The upright line is what the layer would take "
        "at the peaks of this machine, red where reading bounds it, blue where arithmetic does, and the share says how "
        "much of that limit was reached. Runtimes fuse layers: what a fused one takes is under the first of them. "
        "«other» belongs to no layer: reorders, casts and the runtime itself. A profile slows a session down a little, "
        "so its total is not the latency above."
    )
    return paragraph(how, "soft") + "".join(parts)


def roofs(document: Mapping[str, Any]) -> str:
    """The roofline, and how its peaks were measured."""
    picture = roofline(document)
    if not picture:
        return ""
    peaks = document["peaks"]
    shapes = shapes_in_words([row["precision"] for row in rows_with_limits(document)])
    caption = (
        f"{shapes}; a line joins the batch sizes of a session, the smallest on the left. A mark "
        "below the slope is bounded by memory, one below "
        "a flat roof by arithmetic in that precision; the roofs are of the network as a whole, and the share in the "
        "tables, which goes layer by layer, is the stricter one. Bytes are weights, input and output, each counted "
        "once: activations between the layers may stay in the cache and are not counted. One that holds weights too "
        "can beat the limit."
    )
    how = peaks.get("with") or {}
    rows = [["read", f"{with_prefix(peaks['read_bytes_per_second'])}B/s", str(how.get("read", ""))]]
    rows += [[name, f"{with_prefix(value)}MAC/s", str(how.get(name, ""))] for name, value in roofs_of(document).items()]
    title = f"Peaks of {peaks['device']} with {peaks['threads']} threads"
    return (
        figure("Roofline", picture, caption)
        + heading(title)
        + table(title, ("what", "peak", "measured with"), rows, texts=3)
    )
