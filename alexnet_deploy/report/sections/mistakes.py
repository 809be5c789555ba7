"""Which classes are confused, and the images on which a session and the reference differ."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any

from alexnet_deploy.report.markup import escape, figure, heading, paragraph
from alexnet_deploy.report.plots.confusion import confusion
from alexnet_deploy.report.words import label_of_session

# More classes than these have no room for two matrices in a line.
_BESIDE_EACH_OTHER = 12


def confusions(document: Mapping[str, Any]) -> str:
    """The matrices of a session and of the reference, with what differs in edges."""
    found = document.get("confusion")
    if not found or not found["labels"]:
        return ""
    session, counts, before = label_of_session(document, found["session"]), found["counts"], found["reference_counts"]
    how = "Rows are what an image shows, columns what it was taken for."
    if not before:
        return paragraph(how, "soft") + _matrix(session, found["labels"], counts, None)
    changed = sum(a != b for row, other in zip(counts, before, strict=True) for a, b in zip(row, other, strict=True))
    how += f" A red edge marks the {changed} cells in which the two differ." if changed else " The two are the same."
    reference = label_of_session(document, found["reference"])
    both = _matrix(session, found["labels"], counts, before) + _matrix(reference, found["labels"], before, counts)
    beside = len(found["labels"]) <= _BESIDE_EACH_OTHER
    return paragraph(how, "soft") + (f'<div class="grid two">{both}</div>' if beside else both)


def _matrix(name: str, labels: list[str], counts: list[list[int]], other: list[list[int]] | None) -> str:
    title = f"Confusion of {name}"
    return f"<div>{heading(name)}{figure(title, confusion(labels, counts, other, title))}</div>"


def flips(document: Mapping[str, Any]) -> str:
    """The images themselves."""
    found = [entry for entry in document.get("flipped") or [] if _is_base64(entry["png"])]
    if not found:
        return ""
    items = []
    for entry in found:
        session = label_of_session(document, entry["session"])
        label, reference, predicted = (str(entry[name]) for name in ("label", "reference", "predicted"))
        alt = f"image {entry['index']}, {label}; the reference says {reference}, {session} says {predicted}"
        items.append(
            f'<li><img src="data:image/png;base64,{entry["png"]}" width="96" height="96" alt="{escape(alt)}">'
            f"<b>{escape(label)}</b><br>reference: {_said(reference, label)}<br>"
            f"{escape(session)}: {_said(predicted, label)}</li>"
        )
    how = "Images on which a session says something else than the reference; ✓ is right, ✗ is wrong."
    return paragraph(how, "soft") + f'<ul class="flips">{"".join(items)}</ul>'


def _said(what: str, label: str) -> str:
    return f"{escape(what)} {'✓' if what == label else '✗'}"


def _is_base64(png: str) -> bool:
    try:
        return bool(base64.b64decode(png, validate=True))
    except (binascii.Error, ValueError):
        return False
