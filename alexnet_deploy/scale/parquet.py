"""Predictions as a Parquet file, written row group by row group and published whole."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alexnet_deploy.errors import InputError
from alexnet_deploy.files import atomic_path, cannot_write, require_writable
from alexnet_deploy.optional import require, require_installed

FEATURE = "writing Parquet"
# Of a row group: they are kept in memory until there are so many, whoever computes them, so that the file is the same.
_ROWS = 8192
_SUFFIXES = (".parquet", ".pq")


@dataclass
class PredictionsWriter:
    """Rows of `index`, `file`, and the likeliest classes: `classes`, `labels` and `probabilities` are lists.

    Attributes:
        labels: Names of the classes; without any, their numbers are written.
        file_name: Of an image, by its index.
    """

    labels: Sequence[str]
    file_name: Callable[[int], str | None]
    rows: int = 0
    _waiting: list[dict[str, Any]] = field(default_factory=list)
    _writer: Any = None

    def add(self, index: int, classes: Sequence[int], probabilities: Sequence[float]) -> None:
        """One image, likeliest class first."""
        self.rows += 1
        self._waiting.append(
            {
                "index": index,
                "file": self.file_name(index),
                "classes": list(classes),
                "labels": [self.labels[place] if self.labels else str(place) for place in classes],
                "probabilities": list(probabilities),
            }
        )
        if len(self._waiting) == _ROWS:
            self.flush()

    def flush(self) -> None:
        """Writes what waits as a row group."""
        if self._waiting:
            pyarrow: Any = require("pyarrow", FEATURE)
            self._writer.write_table(pyarrow.Table.from_pylist(self._waiting, schema=self._writer.schema))
            self._waiting.clear()


def require_predictions_file(path: Path) -> None:
    """Checks before any work that predictions can be written there.

    Raises:
        InputError: The name is not that of a Parquet file.
        MissingDependencyError: pyarrow is not installed.
        ArtifactError: The folder cannot be written to.
    """
    if path.suffix.lower() not in _SUFFIXES:
        raise InputError(
            "predictions are written as Parquet",
            got=f"the name {path.name}",
            expected=f"one that ends in {' or '.join(_SUFFIXES)}",
            remedy="for CSV or JSON convert the file afterwards, with pandas, Polars or DuckDB, say",
        )
    require_installed("pyarrow", FEATURE)
    require_writable(path.parent)


@contextlib.contextmanager
def predictions_file(
    path: Path, labels: Sequence[str], file_name: Callable[[int], str | None]
) -> Iterator[PredictionsWriter]:
    """A file that is there when the block ends well, and not before.

    Raises:
        MissingDependencyError: pyarrow is not installed.
        ArtifactError: The file cannot be written.
    """
    pyarrow: Any = require("pyarrow", FEATURE)
    parquet: Any = require("pyarrow.parquet", FEATURE)
    columns = [
        ("index", pyarrow.int64()),
        ("file", pyarrow.string()),
        ("classes", pyarrow.list_(pyarrow.int32())),
        ("labels", pyarrow.list_(pyarrow.string())),
        ("probabilities", pyarrow.list_(pyarrow.float64())),
    ]
    with atomic_path(path) as temporary:
        found = PredictionsWriter(labels=labels, file_name=file_name)
        try:
            with parquet.ParquetWriter(str(temporary), pyarrow.schema(columns), compression="zstd") as writer:
                found._writer = writer
                yield found
                found.flush()
        except OSError as exc:
            raise cannot_write(path, exc) from exc
