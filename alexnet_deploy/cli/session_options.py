"""What `predict` and `serve` run: the model on a runtime, or an engine that the user names."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from alexnet_deploy.pipeline.stages import Deployment
    from alexnet_deploy.runtimes.session import SessionSpec
    from alexnet_deploy.weights import ModelInfo

# As `pipeline.sessions` has them.
RUNTIMES = (
    "onnxruntime-cpu", "openvino", "torch", "onnxruntime-cuda", "onnxruntime-tensorrt", "onnxruntime-tensorrt-rtx",
)  # fmt: skip
PRECISIONS = ("fp32", "fp16", "bf16", "int8")


@dataclass(frozen=True, kw_only=True)
class SessionChoice:
    """What the options name.

    Attributes:
        engine: Opened on the GPU in place of a graph, without its passport where it is trusted.
        runtime, precision: Of a graph; None for the runtime's own precision.
    """

    engine: Path | None
    trust: bool
    runtime: str
    precision: str | None

    def of(
        self, deployment: Deployment, *, threads: int, here: bool = True, **settings: Any
    ) -> tuple[SessionSpec, ModelInfo]:
        """The session and its model; makes the graph where it is not there.

        Args:
            deployment: The model.
            threads: Of the session.
            here: It runs on this machine.
            settings: Of the session of a graph: `max_batch`.

        Raises:
            UsageError: The engine's passport names its model, and so do the options.
            AlexnetDeployError: The runtime cannot run here, the graph cannot be made, or the engine may not be opened.
        """
        from alexnet_deploy.pipeline.sessions import session_from_model
        from alexnet_deploy.prediction import engine_spec
        from alexnet_deploy.specs import Precision

        if self.engine is None:
            precision = Precision(self.precision) if self.precision else None
            made = session_from_model(deployment, self.runtime, precision, threads=threads, here=here, **settings)
            return made, deployment.info
        # Absolute, for processes that are started elsewhere.
        spec, stated = engine_spec(self.engine.absolute(), threads=threads, trust=self.trust)
        if stated is not None and deployment.model != "shipped":
            raise click.UsageError("--model goes without --engine, whose passport says which model it is.")
        return spec, stated or deployment.info


def session_options(verb: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Gives the command `session`, a `SessionChoice`.

    Args:
        verb: What the command does with an engine.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @click.option(
            "--runtime",
            type=click.Choice(RUNTIMES),
            help=f"Of a graph: on the CPU, or of a GPU where there is one.  [default: {RUNTIMES[0]}]",
        )
        @click.option(
            "--precision",
            type=click.Choice(PRECISIONS),
            help="Of the runtime.  [default: fp32; fp16 where TensorRT runs the graph]",
        )
        @click.option(
            "--engine",
            type=click.Path(path_type=Path, dir_okay=False),
            help=f"{verb} this engine on the GPU instead; its passport says which model it is.",
        )
        @click.option(
            "--trust",
            is_flag=True,
            help="Open an engine without its passport, or with one that does not match. Engines are programs.",
        )
        @functools.wraps(function)
        def wrapped(
            runtime: str | None, precision: str | None, engine: Path | None, trust: bool, **arguments: Any
        ) -> Any:
            if trust and engine is None:
                raise click.UsageError("--trust goes with --engine.")
            if engine is not None and (precision is not None or runtime is not None):
                raise click.UsageError("--precision and --runtime go without --engine, which has its own.")
            chosen = SessionChoice(engine=engine, trust=trust, runtime=runtime or RUNTIMES[0], precision=precision)
            return function(session=chosen, **arguments)

        return wrapped

    return decorate
