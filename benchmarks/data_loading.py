"""Images per second of decoding and preprocessing a folder of JPEGs: ours against torchvision's ImageFolder.

The images are made here, of 500x375 pixels at quality 90: colours that change slowly, shapes with sharp edges, and
grain, so that a file is as large as a photograph's of that size (some 75 kB). Both loaders do the same: shorter side to
256, centre 224, float, mean and deviation. Every way has a process of its own, which goes over the folder once before
anything counts, so that files are in memory and workers have started, and then once in every turn, while the others
wait. The output is compared too.

usage: python -m benchmarks.data_loading [--turns N] [--images N] [--before CHECKOUT]

`--before` measures the loader of another checkout in the same turns.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw, features

from alexnet_deploy.data.batches import batches
from alexnet_deploy.data.sources import FolderSource
from alexnet_deploy.files import write_json
from alexnet_deploy.machine import environment, version_of
from alexnet_deploy.specs import Preprocessing

if TYPE_CHECKING:
    from numpy.typing import NDArray

RESULT = Path(__file__).parent / "results" / "data-loading.json"
WIDTH, HEIGHT, QUALITY, BATCH, CLASSES = 500, 375, 90, 32, 10
BEFORE = "ours before"
WAYS = {
    "torchvision, no worker": ("torchvision", 0),
    "torchvision, 1 worker": ("torchvision", 1),
    "torchvision, 2 workers": ("torchvision", 2),
    "ours, 1 thread": ("ours", 1),
    "ours, 2 threads": ("ours", 2),
}
# What each of ours is compared with: as many threads as processes.
PEERS = {
    "ours, 1 thread": "torchvision, 1 worker",
    "ours, 2 threads": "torchvision, 2 workers",
    BEFORE: "torchvision, 1 worker",
}
_DECODED = 200
# A checkout from before threads could be named has one.
_PROGRAM_BEFORE = """
import sys, time
from inspect import signature
from pathlib import Path
from alexnet_deploy.data.batches import batches
from alexnet_deploy.data.sources import FolderSource
from alexnet_deploy.specs import Preprocessing
assert "threads" not in signature(batches).parameters
source = FolderSource(Path(sys.argv[1]))
for _ in sys.stdin:
    started, spent = time.perf_counter(), time.process_time()
    count = sum(len(batch.indices) for batch in batches(source, int(sys.argv[2]), Preprocessing()))
    rate = count / (time.perf_counter() - started)
    print(rate, 1e3 * (time.process_time() - spent) / count, flush=True)
"""


def picture(random: np.random.Generator) -> NDArray[np.uint8]:
    """One image as the module describes it."""
    coarse = random.integers(0, 256, (HEIGHT // 25, WIDTH // 25, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(image)
    for _ in range(20):
        x, y, radius = random.integers(0, WIDTH), random.integers(0, HEIGHT), random.integers(5, 80)
        colour = tuple(int(value) for value in random.integers(0, 256, 3))
        draw.ellipse((int(x - radius), int(y - radius), int(x + radius), int(y + radius)), fill=colour)
    grain = random.normal(0, 8, (HEIGHT, WIDTH, 1)).astype(np.int16)
    return (np.asarray(image).astype(np.int16) + grain).clip(0, 255).astype(np.uint8)


def write_folder(folder: Path, count: int) -> int:
    """Fills a folder of classes; returns bytes."""
    random = np.random.default_rng(0)
    for index in range(count):
        path = folder / f"class{index % CLASSES}" / f"{index:05d}.jpg"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(picture(random)).save(path, quality=QUALITY)
    return sum(path.stat().st_size for path in folder.rglob("*.jpg"))


def torchvision_batches(folder: Path, workers: int) -> Callable[[], Iterator[NDArray[np.float32]]]:
    """Torchvision's recipe; the workers stay between passes."""
    from torch.utils.data import DataLoader
    from torchvision import datasets, transforms

    recipe = transforms.Compose(
        [
            transforms.Resize(256),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize(Preprocessing().mean, Preprocessing().std),
        ]
    )
    loader: Any = DataLoader(
        datasets.ImageFolder(str(folder), recipe), BATCH, num_workers=workers, persistent_workers=workers > 0
    )
    return lambda: (images.numpy() for images, _ in loader)


def our_batches(folder: Path, threads: int) -> Callable[[], Iterator[NDArray[np.float32]]]:
    """This package's loader."""
    source = FolderSource(folder)
    return lambda: (batch.images for batch in batches(source, BATCH, Preprocessing(), threads=threads))


def serve(loader: str, workers: int, folder: Path) -> None:
    """Goes over the folder for every line on standard input; prints images per second, and CPU milliseconds of each."""
    passes = (torchvision_batches if loader == "torchvision" else our_batches)(folder, workers)
    for _ in sys.stdin:
        started, spent = time.perf_counter(), cpu_seconds()
        count = sum(len(images) for images in passes())
        print(count / (time.perf_counter() - started), 1e3 * (cpu_seconds() - spent) / count, flush=True)


def cpu_seconds() -> float:
    """Of this process and its workers, from the kernel's ticks."""
    pids = [os.getpid(), *(child.pid for child in multiprocessing.active_children())]
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def largest_difference(folder: Path) -> dict[str, float]:
    """Between the two loaders' outputs, in steps of a byte, and how many numbers differ by more than a rounding."""
    pairs = zip(torchvision_batches(folder, 0)(), our_batches(folder, 2)(), strict=True)
    step = 1 / 255 / max(Preprocessing().std)
    worst, beyond = 0.0, 0
    for theirs, ours in pairs:
        difference = np.abs(theirs - ours) / step
        worst, beyond = max(worst, float(difference.max())), beyond + int((difference > 0.01).sum())
    return {"largest_in_steps_of_a_byte": worst, "numbers_beyond_a_hundredth_of_a_step": beyond}


def decoders(folder: Path) -> list[dict[str, Any]]:
    """Milliseconds of decoding alone in one thread, in turns, and whether the pixels are Pillow's.

    Decoders that are not installed are left out.
    """
    files = [path.read_bytes() for path in sorted(folder.rglob("*.jpg"))[:_DECODED]]
    ways: dict[str, Callable[[bytes], Any]] = {
        "pillow": lambda data: np.asarray(Image.open(io.BytesIO(data), formats=["JPEG"]))
    }
    import torch
    from torchvision.io import decode_jpeg

    torch.set_num_threads(1)
    ways["torchvision.io"] = lambda data: decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8))
    if importlib.util.find_spec("simplejpeg"):
        import simplejpeg  # type: ignore[import-not-found, unused-ignore]

        ways["simplejpeg"] = simplejpeg.decode_jpeg
    if importlib.util.find_spec("cv2"):
        import cv2  # type: ignore[import-not-found, unused-ignore]

        cv2.setNumThreads(1)
        ways["opencv-python-headless"] = lambda data: cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    samples: dict[str, list[float]] = {name: [] for name in ways}
    for data in files:
        for name, decode in ways.items():
            started = time.perf_counter()
            decode(data)
            samples[name].append(1e3 * (time.perf_counter() - started))

    def pixels(name: str, data: bytes) -> NDArray[np.uint8]:
        found: NDArray[np.uint8] = np.asarray(ways[name](data))
        return found.transpose(1, 2, 0) if name == "torchvision.io" else found

    return [
        {
            "decoder": name,
            "version": version_of(name.removesuffix(".io")),
            "milliseconds_median": round(statistics.median(taken), 3),
            "ratio_to_pillow_median": round(
                statistics.median(theirs / ours for theirs, ours in zip(samples["pillow"], taken, strict=True)), 3
            ),
            "pixels_as_pillows": all(np.array_equal(pixels(name, data), pixels("pillow", data)) for data in files),
        }
        for name, taken in samples.items()
    ]


class Way:
    """A loader in a process of its own."""

    def __init__(self, way: str, folder: Path, before: Path | None) -> None:
        command = [sys.executable, "-m", "benchmarks.data_loading", "--worker", way, "--folder", str(folder)]
        home = None
        if way == BEFORE:
            # Python looks for modules where it was started.
            command, home = [sys.executable, "-c", _PROGRAM_BEFORE, str(folder), str(BATCH)], before
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=home)
        self.rate()

    def rate(self) -> tuple[float, float]:
        """Images per second of one pass, and CPU milliseconds of an image."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        rate, spent = self._process.stdout.readline().split()
        return float(rate), float(spent)

    def close(self) -> None:
        """Ends the process."""
        self._process.communicate()


def measured(folder: Path, turns: int, before: Path | None) -> list[dict[str, Any]]:
    """All the ways in turns."""
    ways = {way: Way(way, folder, before) for way in [*WAYS, *([BEFORE] if before else [])]}
    rates: dict[str, list[float]] = {way: [] for way in ways}
    spent: dict[str, list[float]] = {way: [] for way in ways}
    names = list(ways)
    for turn in range(turns):
        # Another one goes first each time.
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            rate, milliseconds = ways[name].rate()
            rates[name].append(rate)
            spent[name].append(milliseconds)
        print(f"turn {turn + 1}/{turns}", file=sys.stderr)
    for way in ways.values():
        way.close()
    return rows_of(rates, spent)


def rows_of(rates: dict[str, list[float]], spent: dict[str, list[float]]) -> list[dict[str, Any]]:
    """Medians, and ratios of passes of the same turn."""
    rows = []
    for name, taken in rates.items():
        row: dict[str, Any] = {
            "way": name,
            "images_per_second": _spread(taken),
            "cpu_ms_per_image": _spread(spent[name]),
        }
        for peer in dict.fromkeys([PEERS.get(name), BEFORE if name.startswith("ours,") else None]):
            if peer in rates:
                ratios = [ours / theirs for ours, theirs in zip(taken, rates[peer], strict=True)]
                row[f"ratio to {peer}"] = _spread(ratios)
        rows.append({**row, "samples": [round(rate, 2) for rate in taken]})
    return rows


def _spread(values: list[float]) -> dict[str, Any]:
    lower, median, upper = statistics.quantiles(values, n=4, method="inclusive")
    return {
        "median": float(f"{median:.4g}"),
        "quartiles": [float(f"{value:.4g}") for value in (lower, upper)],
        "min_max": [float(f"{value:.4g}") for value in (min(values), max(values))],
    }


def main() -> None:
    """Measures and writes the results."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--turns", type=int, default=24)
    parser.add_argument("--images", type=int, default=320)
    parser.add_argument("--before", type=Path)
    parser.add_argument("--worker")
    parser.add_argument("--folder", type=Path)
    asked = parser.parse_args()
    if asked.worker:
        serve(*WAYS[asked.worker], asked.folder)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        size = write_folder(folder, asked.images)
        document = {
            "schema": 1,
            "what": f"decoding and preprocessing {asked.images} JPEGs of {WIDTH}x{HEIGHT}, batch {BATCH}",
            "bytes_per_image": round(size / asked.images),
            "libjpeg_turbo_of_pillow": features.version("libjpeg_turbo"),
            "turns": asked.turns,
            "environment": environment(),
            "rows": measured(folder, asked.turns, asked.before),
            "output": largest_difference(folder),
            "decoders": decoders(folder),
        }
    write_json(RESULT, document)
    for row in document["rows"]:
        print(f"{row['images_per_second']['median']:7.1f} images/s  {row['way']}")


if __name__ == "__main__":
    main()
