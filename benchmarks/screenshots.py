"""Pictures of a bench's report for the documents, taken with a headless Chromium.

usage: python -m benchmarks.screenshots bench.json docs/
"""

from __future__ import annotations

import io
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from alexnet_deploy.files import write_bytes
from alexnet_deploy.report.html import page_from_bench
from benchmarks.chromium import Browser, find_chromium

_LARGEST_BYTES = 300_000
_COLOURS = 128


@dataclass(frozen=True, kw_only=True)
class Shot:
    """A part of the page: from the top of one element to the bottom of another, no higher than `height`."""

    name: str
    first: str
    last: str
    width: int = 1280
    height: int = 1200
    scheme: str = "light"
    scale: float = 1.0


SHOTS = (
    Shot(name="report.png", first="header", last="#front figure", height=1400),
    Shot(name="report-latency.png", first="#latency", last="#latency figure"),
    Shot(name="report-layers.png", first="#layers", last="#layers .grid"),
    Shot(name="report-roofline.png", first="#roofline", last="#roofline figure"),
    Shot(name="report-calibration.png", first="#calibration", last="#calibration .grid"),
    Shot(name="report-dark.png", first="#throughput", last="#throughput figure", scheme="dark"),
    Shot(name="report-phone.png", first="header", last="#front", width=360, height=740, scale=2.0),
)


def main(arguments: Sequence[str]) -> int:
    """Writes the pictures of `SHOTS` into a folder; 1 where there is no browser, 2 on another usage."""
    if len(arguments) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    executable = find_chromium()
    if executable is None:
        print("there is no Chromium on PATH; apt-get install chromium", file=sys.stderr)
        return 1
    document, folder = json.loads(Path(arguments[0]).read_text(encoding="utf-8")), Path(arguments[1])
    with tempfile.TemporaryDirectory() as work, Browser(executable) as browser:
        page = Path(work) / "report.html"
        page.write_text(page_from_bench(document), encoding="utf-8")
        for shot in SHOTS:
            picture = _taken(browser, page, shot)
            if picture is None:
                print(f"{shot.name}: the report has no {shot.first} or no {shot.last}")
                continue
            write_bytes(folder / shot.name, picture)
            print(f"{folder / shot.name}: {len(picture) / 1e3:.0f} kB")
    return 0


def _taken(browser: Browser, page: Path, shot: Shot) -> bytes | None:
    browser.look(shot.width, 900, scheme=shot.scheme, scale=shot.scale)
    browser.open(page)
    found = browser.evaluate(
        f"[document.querySelector({shot.first!r}), document.querySelector({shot.last!r})].map(found => found && "
        "[found.getBoundingClientRect().top + scrollY, found.getBoundingClientRect().bottom + scrollY])"
    )
    if None in found:
        return None
    top = max(0, found[0][0] - 20)
    return _small(browser.screenshot(top, min(shot.height, found[1][1] + 12 - top)))


def _small(png: bytes) -> bytes:
    """The picture, in fewer colours where it is too large for a repository."""
    from PIL import Image

    image = Image.open(io.BytesIO(png)).convert("RGB")
    target = io.BytesIO()
    image.save(target, "PNG", optimize=True)
    if target.tell() > _LARGEST_BYTES:
        target = io.BytesIO()
        image.quantize(_COLOURS, dither=Image.Dither.NONE).save(target, "PNG", optimize=True)
    return target.getvalue()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
