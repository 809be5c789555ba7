"""Chunks on Ray Data: a dataset of chunks, mapped by a pool of actors that open the images themselves."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from pathlib import Path
from typing import Any

from alexnet_deploy import __version__
from alexnet_deploy.errors import AlexnetDeployError, DataError, SessionError
from alexnet_deploy.machine import peak_memory_bytes
from alexnet_deploy.optional import require
from alexnet_deploy.progress import Voice
from alexnet_deploy.scale.answers import received, sent, sent_error
from alexnet_deploy.scale.bundle import packed_files, private_folder, unpacked_files
from alexnet_deploy.scale.chunks import Answer, Chunk, in_order
from alexnet_deploy.scale.cluster import FEATURE, Cluster, Share
from alexnet_deploy.scale.executor import Executor, ExecutorName
from alexnet_deploy.scale.images import witness_of
from alexnet_deploy.scale.jobs import Job, Step

# A chunk that has ended so many workers ends the job.
MOST_ATTEMPTS = 3
# One is worked on, and one waits, so that no worker is idle between two.
_IN_FLIGHT = 2


class Attempts:
    """How often each chunk was begun, kept where it outlives the workers."""

    def __init__(self) -> None:
        self._begun: dict[int, int] = {}

    def begin(self, number: int) -> int:
        """Counts a beginning, and says the how-manieth it is."""
        self._begun[number] = self._begun.get(number, 0) + 1
        return self._begun[number]

    def repeated(self) -> int:
        """How many chunks were begun more than once."""
        return sum(count > 1 for count in self._begun.values())


class Worker:
    """An actor of the pool. It opens images and session with its first chunk, so that what fails there is an answer.

    Args:
        job: What to do.
        count, listed: How many images the set has where the command was called, and the digest of their names.
        files: Reference to the job's files.
        attempts: The actor that counts beginnings.
        folder: Where files go; None for the node's own place.
        threads: Of a session.
        version: Of the package where the command was called.
    """

    def __init__(
        self,
        *,
        job: Job,
        count: int,
        listed: str,
        files: list[Any],
        attempts: Any,
        folder: Path | None,
        threads: int,
        version: str,
    ) -> None:
        self._job, self._count, self._listed, self._files, self._attempts = job, count, listed, files, attempts
        self._folder, self._threads, self._version = folder, threads, version
        self._open = contextlib.ExitStack()
        self._step: Step | None = None

    def __call__(self, block: Any) -> Any:
        """A table of one chunk becomes one of its answer."""
        pyarrow: Any = require("pyarrow", FEATURE)
        chunk, witness = Chunk(**block.to_pylist()[0]), ""
        try:
            answer = sent(self._answer(chunk))
            witness = witness_of(self._job.images.source, chunk.of(self._job.indices))
        except Exception as exc:  # whatever it is, it is said by whoever called the command
            answer = sent_error(exc, _images(self._job, chunk))
        row = {"number": chunk.number, "answer": answer, "witness": witness, "peak": peak_memory_bytes() or 0}
        return pyarrow.Table.from_pylist([row], schema=_schema(pyarrow))

    def _answer(self, chunk: Chunk) -> Any:
        ray: Any = require("ray", FEATURE)
        if ray.get(self._attempts.begin.remote(chunk.number)) > MOST_ATTEMPTS:
            raise SessionError(
                f"every worker that takes {_images(self._job, chunk)} ends",
                got=f"{MOST_ATTEMPTS} workers that ended while they had them",
                expected="an answer",
                remedy="look for what these images do to the runtime, or whether the node has enough memory",
            )
        if self._step is None:
            self._step = self._opened(ray)
        return self._step(chunk)

    def _opened(self, ray: Any) -> Step:
        if self._version != __version__:
            raise SessionError(
                "a worker has another version of alexnet-deploy",
                got=__version__,
                expected=f"{self._version}, as where the command was called",
                remedy="install the same version on every node",
            )
        source = self._job.images.opened_elsewhere(self._count, self._listed)
        files, folder = ray.get(self._files[0]), Path()
        if files:
            folder = self._open.enter_context(unpacked_files(files, self._folder or private_folder()))
        return self._open.enter_context(self._job.at(folder, self._threads).opened(source))


def _schema(pyarrow: Any) -> Any:
    # An answer of many classes may be larger than the two gigabytes of a plain column's offsets are together.
    whole, text, answer = pyarrow.int64(), pyarrow.string(), pyarrow.large_binary()
    return pyarrow.schema([("number", whole), ("answer", answer), ("witness", text), ("peak", whole)])


def _images(job: Job, chunk: Chunk) -> str:
    indices = chunk.of(job.indices)
    return f"chunk {chunk.number} of {job.images.data} ({len(indices)} images, the first of them number {indices[0]})"


def _require_same(job: Job, chunk: Chunk, witness: str) -> None:
    """Holds what a worker read against what lies here."""
    indices = chunk.of(job.indices)
    if witness != witness_of(job.images.source, indices):
        raise DataError(
            f"a worker read other images than the command sees: {_images(job, chunk)}",
            got="files of the same names, and of other sizes or contents",
            expected="the same files at the same path on every node",
            remedy=f"copy {job.images.data} to every node anew, or put it on a disk that they share",
        )


def _counter(ray: Any) -> Any:
    """The actor that counts, on this process's own node: where that one is lost, so is the command.

    One that is killed is started again, and counts from nothing: a chunk that ends its workers has a few more.
    """
    scheduling: Any = require("ray.util.scheduling_strategies", FEATURE)
    here = scheduling.NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    options = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": -1, "scheduling_strategy": here}
    return ray.remote(**options)(Attempts).remote()


class RayExecutor(Executor):
    """The workers of a cluster.

    Args:
        cluster: Connected.
        voice: Hears of workers that died.
    """

    name = ExecutorName.RAY

    def __init__(self, cluster: Cluster, voice: Voice) -> None:
        self.cluster, self._voice = cluster, voice
        self._shares: list[Share] = []
        self._peak = 0
        self._repeated: int | None = 0

    def run(self, job: Job, first: int = 0) -> Generator[Answer]:
        chunks = job.chunks(first)
        if not chunks:
            return
        ray: Any = require("ray", FEATURE)
        share = self.cluster.share(job)
        self._shares.append(share)
        # In this process first: what is wrong with the source is said without a cluster.
        count = len(job.images.source)
        attempts = _counter(ray)
        arguments = {
            "job": job,
            "count": count,
            "listed": job.images.listed,
            # In a list: Ray would put the files themselves where a reference stands alone.
            "files": [ray.put(packed_files(job.files))],
            "attempts": attempts,
            "folder": self.cluster.folder,
            "threads": share.threads,
            "version": __version__,
        }
        try:
            with contextlib.closing(self._answers(chunks, arguments, share)) as answers:
                yield from in_order(answers, chunks)
            self._note_repeated(ray, attempts)
        except AlexnetDeployError:
            raise
        except ray.exceptions.RayError as exc:
            raise SessionError(
                "the Ray cluster failed", got=str(exc).strip().split("\n")[0], remedy="look into its logs"
            ) from exc
        finally:
            # After the end of the cluster, Ray would start another one to kill an actor in.
            if ray.is_initialized():
                ray.kill(attempts)

    def _note_repeated(self, ray: Any, attempts: Any) -> None:
        try:
            repeated = int(ray.get(attempts.repeated.remote()))
        except ray.exceptions.RayError:
            # All answers are there, and are whole without it.
            self._voice.warn("how many chunks were begun again is not known: the process that counted them is gone")
            self._repeated = None
            return
        if repeated:
            self._voice.warn(f"workers ended and were replaced: {repeated} chunks were begun again")
        if self._repeated is not None:
            self._repeated += repeated

    def _answers(self, chunks: list[Chunk], arguments: dict[str, Any], share: Share) -> Generator[Answer]:
        data: Any = require("ray.data", FEATURE)
        pyarrow: Any = require("pyarrow", FEATURE)
        with data.DataContext.current(_context(data)):
            # A block a chunk: what is done again after a death is one chunk. Ray Data begins dead actors and their
            # tasks again for ever: `Attempts` knows when to end, and which chunk it is that ends workers.
            dataset = data.from_arrow([pyarrow.Table.from_pylist([vars(chunk)]) for chunk in chunks]).map_batches(
                Worker,
                fn_constructor_kwargs=arguments,
                batch_size=None,
                batch_format="pyarrow",
                compute=data.ActorPoolStrategy(
                    size=min(share.workers, len(chunks)), max_tasks_in_flight_per_actor=_IN_FLIGHT
                ),
                num_cpus=share.cpus,
                num_gpus=share.gpus,
            )
            blocks = dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1)
            for block in blocks:
                for row in block.to_pylist():
                    self._peak = max(self._peak, row["peak"])
                    chunk, arrays = chunks[row["number"]], received(row["answer"])
                    _require_same(arguments["job"], chunk, row["witness"])
                    yield Answer(chunk=chunk, arrays=arrays)

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name.value,
            "workers": max((share.workers for share in self._shares), default=0),
            "threads": max((share.threads for share in self._shares), default=0),
            "repeated_chunks": self._repeated,
            "worker_peak_memory_bytes": self._peak or None,
        }


def _context(data: Any) -> Any:
    context = data.DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.enable_auto_log_stats = False
    # So that few answers wait for their turn here, whatever the number of images.
    context.execution_options.preserve_order = True
    return context
