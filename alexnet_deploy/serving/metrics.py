"""What a server counts, in Prometheus's text format.

The format: https://prometheus.io/docs/instrumenting/exposition_formats/. Ray has metrics of its own, which need its
dashboard's agent; these need nothing, and are of this server alone.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
# Seconds: from a small batch on a GPU to a request that waited in a long queue.
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
IMAGES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0)
Labels = tuple[tuple[str, str], ...]


@dataclass
class _Histogram:
    bounds: tuple[float, ...]
    counts: list[int] = field(init=False)
    total: float = 0.0

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds) + 1)


@dataclass(frozen=True)
class _Family:
    kind: str
    help: str
    bounds: tuple[float, ...] = ()


class Registry:
    """Counters, gauges and histograms by name; any thread may write.

    Args:
        labels: What every series carries.
    """

    def __init__(self, labels: Mapping[str, str] | None = None) -> None:
        self._labels: Labels = tuple((labels or {}).items())
        self._families: dict[str, _Family] = {}
        self._values: dict[str, dict[Labels, float]] = {}
        self._histograms: dict[str, dict[Labels, _Histogram]] = {}
        self._lock = threading.Lock()

    def describe(self, name: str, kind: str, help_text: str, bounds: tuple[float, ...] = ()) -> None:
        """Declares a family before its first value; `kind` is counter, gauge or histogram."""
        self._families[name] = _Family(kind, help_text, bounds)
        if kind == "histogram":
            self._histograms[name] = {}
        else:
            self._values[name] = {}

    def add(self, name: str, amount: float = 1.0, **labels: str) -> None:
        """Adds to a counter or gauge."""
        with self._lock:
            series = self._values[name]
            key = tuple(labels.items())
            series[key] = series.get(key, 0.0) + amount

    def set(self, name: str, value: float, **labels: str) -> None:
        """Sets a gauge."""
        with self._lock:
            self._values[name][tuple(labels.items())] = value

    def observe(self, name: str, value: float, **labels: str) -> None:
        """Counts a value in a histogram."""
        with self._lock:
            series, key = self._histograms[name], tuple(labels.items())
            found = series.get(key)
            if found is None:
                found = series[key] = _Histogram(self._families[name].bounds)
            found.counts[bisect_left(found.bounds, value)] += 1
            found.total += value

    def text(self) -> str:
        """Everything, as a scrape reads it."""
        with self._lock:
            return "".join(f"{line}\n" for name in self._families for line in self._lines(name))

    def _lines(self, name: str) -> Iterator[str]:
        family = self._families[name]
        yield f"# HELP {name} {_escaped(family.help, quotes=False)}"
        yield f"# TYPE {name} {family.kind}"
        if family.kind != "histogram":
            for labels, value in self._values[name].items():
                yield f"{name}{_braced(self._labels + labels)} {_number(value)}"
            return
        for labels, found in self._histograms[name].items():
            sofar = 0
            for bound, count in zip((*map(_number, found.bounds), "+Inf"), found.counts, strict=True):
                sofar += count
                yield f"{name}_bucket{_braced((*self._labels, *labels, ('le', bound)))} {sofar}"
            yield f"{name}_sum{_braced(self._labels + labels)} {_number(found.total)}"
            yield f"{name}_count{_braced(self._labels + labels)} {sofar}"


def _braced(labels: Labels) -> str:
    inner = ",".join(f'{name}="{_escaped(value)}"' for name, value in labels)
    return f"{{{inner}}}" if inner else ""


def _escaped(text: str, *, quotes: bool = True) -> str:
    plain = text.replace("\\", "\\\\").replace("\n", "\\n")
    return plain.replace('"', '\\"') if quotes else plain


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)
