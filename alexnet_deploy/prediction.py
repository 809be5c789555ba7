"""The most likely classes of single images, through the same preprocessing as everything else."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from alexnet_deploy.data.batches import Skipped
from alexnet_deploy.data.preprocessing import batch_from_images
from alexnet_deploy.data.sources import IMAGE_SUFFIXES, images_below, read_image
from alexnet_deploy.errors import ImageError, InputError
from alexnet_deploy.limits import MAX_LABEL_CHARACTERS, MAX_LABELS_BYTES, bounded_bytes, require_within
from alexnet_deploy.runtimes.admission import engine_backend, engine_facts
from alexnet_deploy.runtimes.session import Session, SessionSpec
from alexnet_deploy.specs import Precision
from alexnet_deploy.weights import ModelInfo

if TYPE_CHECKING:
    from numpy.typing import NDArray

TOP = 5


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """`classes` holds `(label, probability)`, most likely first."""

    path: Path
    classes: tuple[tuple[str, float], ...]


def image_paths(names: Sequence[str]) -> list[Path]:
    """Files, and the images below folders, in order.

    Raises:
        InputError: A name is missing, or a folder holds no images.
    """
    paths: list[Path] = []
    for name in names:
        path = Path(name).expanduser()
        if path.is_dir():
            found = images_below(path)
            if not found:
                raise InputError(f"the folder {name} holds no images", expected=", ".join(sorted(IMAGE_SUFFIXES)))
            paths += found
        elif path.is_file():
            paths.append(path)
        else:
            raise InputError(f"there is no image {name!r}", remedy="check the path")
    return paths


def engine_spec(path: Path, *, threads: int, trust: bool) -> tuple[SessionSpec, ModelInfo | None]:
    """How to run an engine that the user named, and of which model it is; None where no passport says so.

    Raises:
        InputError: There is no such file.
        ArtifactError: Its passport is missing, changed, or of another file, and it is not trusted without.
    """
    facts = engine_facts(path, trust=trust)
    spec = SessionSpec(
        runtime=engine_backend(path, facts),
        precision=Precision(facts.get("precision", Precision.FP16)),
        path=path,
        threads=threads,
        lrn=facts.get("lrn"),
        trust=trust,
    )
    return spec, ModelInfo.from_json(facts.get("model")) if facts else None


def predictions(
    session: Session,
    info: ModelInfo,
    paths: Sequence[Path],
    labels: Sequence[str],
    *,
    top: int = TOP,
    skipped: Skipped | None = None,
) -> Iterator[Prediction]:
    """Runs the images one by one.

    Args:
        session, info: What runs, and its model.
        paths: The images.
        labels: Names of the classes, or none.
        top: How many classes of each.
        skipped: Where damaged images are noted; None makes the first one an error.

    Raises:
        ImageError: An image is damaged.
        InputError: The labels do not fit the model's classes.
    """
    for path in paths:
        try:
            image = batch_from_images([read_image(path)], info.preprocessing)
        except ImageError as exc:
            if skipped is None:
                raise
            skipped.note(exc.problem)
            continue
        yield Prediction(path=path, classes=top_classes(session.run(image)[0], labels, top))


def best_classes(logits: NDArray[np.floating], top: int) -> tuple[list[int], list[float]]:
    """The likeliest classes of one image and their probabilities, likeliest first; of equals the first.

    Args:
        logits: `(classes,)`, or probabilities, where the graph ends in a softmax.
        top: How many.
    """
    wide = logits.astype(np.float64)
    powers = np.exp(wide - wide.max())
    probabilities = wide if is_distribution(wide) else powers / powers.sum()
    best = np.argsort(-probabilities, kind="stable")[:top]
    return [int(place) for place in best], [float(probabilities[place]) for place in best]


def top_classes(logits: NDArray[np.float32], labels: Sequence[str], top: int = TOP) -> tuple[tuple[str, float], ...]:
    """`(label, probability)` of the most likely classes of one row of logits or probabilities, most likely first.

    Raises:
        InputError: The labels do not fit the model's classes.
    """
    if labels and len(labels) != len(logits):
        raise InputError("the labels do not fit the model", got=f"{len(labels)}", expected=f"{len(logits)}")
    best, shares = best_classes(logits, top)
    return tuple((labels[place] if labels else str(place), share) for place, share in zip(best, shares, strict=True))


def is_distribution(values: NDArray[np.floating]) -> bool:
    """Whether the graph ends in a softmax already."""
    return bool((values >= 0).all() and abs(values.sum() - 1) < 1e-3)


def labels_from_file(path: Path) -> tuple[str, ...]:
    """One label a line, in UTF-8.

    Raises:
        InputError: The file cannot be read, holds no labels, or some that cannot be shown.
    """
    try:
        # Some editors begin a file with a mark, which is no part of the first label.
        lines = bounded_bytes(path, MAX_LABELS_BYTES).decode("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as exc:
        raise InputError(f"{path} cannot be read as labels", got=exc, expected="one label a line") from exc
    labels = tuple(line.strip() for line in lines if line.strip())
    require_within(f"a label in {path}", max(map(len, labels), default=0), MAX_LABEL_CHARACTERS, "characters")
    # A terminal would act on them.
    wrong = next(
        (label for label in labels if any(letter != "\t" and unicodedata.category(letter) == "Cc" for letter in label)),
        None,
    )
    if wrong is not None or not labels:
        raise InputError(
            f"{path} holds no labels" if wrong is None else f"{path} holds a label that cannot be shown",
            got="no line with anything on it" if wrong is None else ascii(wrong[:80]),
            expected="one label a line",
        )
    return labels
