"""`alexnet-deploy`: finds the command, runs it, and turns errors into messages and exit codes."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import click

from alexnet_deploy import __version__
from alexnet_deploy.errors import EXIT_ERROR, AlexnetDeployError
from alexnet_deploy.interrupts import Stopped, stoppable

# Command -> what it does; the module of the same name is imported only when the command is called.
COMMANDS = {
    "demo": "the whole way on the shipped model, ending in the report",
    "train": "train a variant on a data source",
    "export": "checkpoint or ONNX file to normalised ONNX",
    "calibrate": "calibration table from images",
    "build-engine": "engines from FP32 to INT4, without a GPU too",
    "bench": "latency and accuracy of every runtime that is here",
    "compare": "two benches row by row; exit code 3 on a regression",
    "inspect": "layers, shapes and precisions of a model, graph or engine",
    "predict": "the five most likely classes of images",
    "package": "a model repository for Triton Inference Server",
    "serve": "answer requests for classes over HTTP",
    "doctor": "what this machine can run, and what is missing",
}


_KEPT = "what was finished is kept, and the same command goes on from there"


class LazyGroup(click.Group):
    """Lists commands without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"alexnet_deploy.cli.{cmd_name.replace('-', '_')}")
        command: click.Command = module.command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in COMMANDS:
            from difflib import get_close_matches

            near = get_close_matches(args[0], COMMANDS, n=1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise click.UsageError(f"There is no command {args[0]!r}.{hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="alexnet-deploy")
def cli() -> None:
    """Takes AlexNet, and LRN-era networks like it, from weights to a deployment that has proved itself.

    Every command works with no argument on the model that ships. Start with `alexnet-deploy demo`.
    """


def main(args: list[str] | None = None) -> None:
    """Entry point; always ends the process with one of the exit codes of `errors.py`."""
    try:
        with stoppable(_say, "interrupted: ending", at_once=True):
            result: Any = cli.main(args, prog_name="alexnet-deploy", standalone_mode=False)
        sys.exit(result if isinstance(result, int) else 0)
    except click.exceptions.Exit as exc:
        sys.exit(exc.exit_code)
    except click.ClickException as exc:
        exc.show()
        sys.exit(exc.exit_code)
    except AlexnetDeployError as exc:
        print(f"error: {exc}", file=sys.stderr)
        sys.exit(exc.exit_code)
    except (KeyboardInterrupt, click.Abort) as exc:
        # Click raises its own in place of every KeyboardInterrupt.
        cause = exc.__cause__ if isinstance(exc, click.Abort) else exc
        stopped = cause if isinstance(cause, Stopped) else Stopped()
        _say(f"interrupted: {stopped.remedy or _KEPT}")
        sys.exit(stopped.exit_code)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(0)
    except (OSError, MemoryError) as exc:
        _say(f"error: {_of_the_machine(exc)}")
        sys.exit(EXIT_ERROR)


def _of_the_machine(exc: OSError | MemoryError) -> AlexnetDeployError:
    """What no stage foresaw and is not a fault of the program: a file that may not be read, a disk or memory that is
    full."""
    if isinstance(exc, MemoryError):
        return AlexnetDeployError("there is not enough memory", got=exc, remedy="a smaller model, batch or workspace")
    return AlexnetDeployError(
        f"{exc.filename or 'a file'} cannot be used",
        got=exc.strerror or exc,
        remedy="check the path, who may read and write it, and whether the disk is full",
    )


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
