"""What `predict` and `serve` run: a graph of the model on the CPU, or an engine that the user names."""

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

_RUNTIMES = ("onnxruntime-cpu", "openvino")
_PRECISIONS = ("fp32", "int8")


@dataclass(frozen=True, kw_only=True)
class SessionChoice:
    """What the options name.

    Attributes:
        engine: Opened on the GPU in place of a graph, without its passport where it is trusted.
        runtime, precision: Of a graph.
    """

    engine: Path | None
    trust: bool
    runtime: str
    precision: str

    def of(self, deployment: Deployment, **settings: Any) -> tuple[SessionSpec, ModelInfo]:
        """The session and its model; makes the graph where it is not there.

        Args:
            deployment: The model.
            settings: Of the session: `threads`, and `max_batch` of a graph.

        Raises:
            UsageError: The engine's passport names its model, and so do the options.
            AlexnetDeployError: The graph cannot be made, or the engine may not be opened.
        """
        from alexnet_deploy.prediction import engine_spec
        from alexnet_deploy.runtimes.session import SessionSpec
        from alexnet_deploy.specs import Precision, Target

        # Absolute, for processes that are started elsewhere.
        if self.engine is None:
            precision = Precision(self.precision)
            path = deployment.graph(precision, Target(self.runtime)).path.absolute()
            return SessionSpec(runtime=self.runtime, precision=precision, path=path, **settings), deployment.info
        spec, stated = engine_spec(self.engine.absolute(), threads=settings["threads"], trust=self.trust)
        if stated is not None and deployment.model != "shipped":
            raise click.UsageError("--model goes without --engine, whose passport says which model it is.")
        return spec, stated or deployment.info


def session_options(verb: str, *, runtimes: bool = False) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Gives the command `session`, a `SessionChoice`.

    Args:
        verb: What the command does with an engine.
        runtimes: Whether the runtime of a graph can be chosen.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @click.option(
            "--precision",
            type=click.Choice(_PRECISIONS),
            help=f"Of {'the runtime' if runtimes else 'ONNX Runtime'}.  [default: {_PRECISIONS[0]}]",
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
            precision: str | None, engine: Path | None, trust: bool, runtime: str | None = None, **arguments: Any
        ) -> Any:
            if trust and engine is None:
                raise click.UsageError("--trust goes with --engine.")
            if engine is not None and (precision is not None or runtime is not None):
                names = "--precision and --runtime go" if runtimes else "--precision goes"
                raise click.UsageError(f"{names} without --engine, which has its own.")
            chosen = SessionChoice(
                engine=engine, trust=trust, runtime=runtime or _RUNTIMES[0], precision=precision or _PRECISIONS[0]
            )
            return function(session=chosen, **arguments)

        if not runtimes:
            return wrapped
        return click.option(
            "--runtime",
            type=click.Choice(_RUNTIMES),
            help=f"On this machine's CPU.  [default: {_RUNTIMES[0]}]",
        )(wrapped)

    return decorate
