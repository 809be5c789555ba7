"""`alexnet-deploy train`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from alexnet_deploy.cli.options import output_option, quiet_option, workdir_option
from alexnet_deploy.errors import AlexnetDeployError, RankLostError
from alexnet_deploy.interrupts import Stopped
from alexnet_deploy.progress import Voice
from alexnet_deploy.training.options import OPTIMIZERS, PRECISIONS, SCHEDULES, Spread, TrainingOptions
from alexnet_deploy.variants import VARIANTS

_DEFAULTS, _SPREAD = TrainingOptions(), Spread()


@click.command("train")
@click.option(
    "--data",
    default="fashion-mnist",
    show_default=True,
    metavar="NAME[:FOLDER]|FOLDER",
    help="fashion-mnist, cifar10, imagenette, or a folder with one folder a class.",
)
@click.option("--model", metavar="FILE|NAME", help="Fine-tune these weights instead of starting from random ones.")
@click.option(
    "--variant",
    type=click.Choice(list(VARIANTS)),
    help="The network to train, or that of weights which do not say.  [default: paper]",
)
@click.option("--width", type=float, default=1.0, show_default=True, help="Multiplier on the channel counts.")
@click.option("--image-size", type=int, default=0, help="Side of the network's input; the variant's own by default.")
@click.option("--epochs", type=int, default=_DEFAULTS.epochs, show_default=True)
@click.option(
    "--batch-size",
    type=int,
    default=_DEFAULTS.batch_size,
    show_default=True,
    help="Images a step, of all processes and parts together.",
)
@click.option(
    "--accumulate",
    type=int,
    default=_SPREAD.accumulate,
    show_default=True,
    help="Parts in which each process takes its share of a batch, where memory is short; the result is the same.",
)
@click.option(
    "--threads",
    type=int,
    help="CPU threads of each process.  [default: OMP_NUM_THREADS, or its share of all; for images the share]",
)
@click.option(
    "--rank-timeout",
    type=float,
    default=_SPREAD.timeout_s,
    show_default=True,
    help="Under torchrun: seconds after which a process that does not answer counts as lost.",
)
@click.option(
    "--learning-rate", type=float, default=_DEFAULTS.learning_rate, show_default=True, help="Peak of the schedule."
)
@click.option("--optimizer", type=click.Choice(OPTIMIZERS), default=_DEFAULTS.optimizer, show_default=True)
@click.option("--schedule", type=click.Choice(SCHEDULES), default=_DEFAULTS.schedule, show_default=True)
@click.option("--weight-decay", type=float, default=_DEFAULTS.weight_decay, show_default=True)
@click.option("--dropout", type=float, default=_DEFAULTS.dropout, show_default=True)
@click.option("--label-smoothing", type=float, default=_DEFAULTS.label_smoothing, show_default=True)
@click.option("--seed", type=int, default=_DEFAULTS.seed, show_default=True)
@click.option(
    "--train-size",
    type=int,
    help="Train on smaller images first (progressive resizing); finish with a run at the network's own size.",
)
@click.option("--flip/--no-flip", default=_DEFAULTS.flip, show_default=True, help="Mirror half of the images.")
@click.option("--head-only", is_flag=True, help="Train the fully connected layers on features computed once.")
@click.option(
    "--density",
    type=float,
    default=_DEFAULTS.density,
    show_default=True,
    help="Share of the weights of fc6 and fc7 that pruning leaves.",
)
@click.option(
    "--validation-share",
    type=float,
    default=_DEFAULTS.validation_share,
    show_default=True,
    help="Share of the training split that is held out to watch the run; a test split (val/) is left to bench.",
)
@click.option("--precision", type=click.Choice(PRECISIONS), default=_DEFAULTS.precision, show_default=True)
@click.option("--half", is_flag=True, help="Store the checkpoint in FP16.")
@click.option("--download", is_flag=True, help="Let torchvision fetch Fashion-MNIST.")
@click.option("--skip-bad", is_flag=True, help="Leave out damaged images and count them.")
@click.option("--resume", is_flag=True, help="Go on with the run that was interrupted.")
@output_option("The checkpoint, .safetensors or .safetensors.zst.  [default: WORKDIR/alexnet.safetensors]")
@workdir_option
@quiet_option
def command(
    data: str, model: str | None, variant: str | None, width: float, image_size: int, half: bool, download: bool,
    skip_bad: bool, resume: bool, output: Path | None, workdir: Path, voice: Voice, accumulate: int,
    threads: int | None, rank_timeout: float, **options: Any,
) -> None:  # fmt: skip
    """Train a variant on a data source, or fine-tune a model to other classes.

    Ctrl-C ends the run after the current step and keeps everything; --resume goes on from there.

    Under torchrun, processes share every batch: torchrun --nproc-per-node 2 -m alexnet_deploy train
    """
    choices = TrainingOptions(**options)
    spread = Spread(accumulate=accumulate, threads=threads, timeout_s=rank_timeout)
    from alexnet_deploy.training.ranks import opened_ranks
    from alexnet_deploy.training.run import TrainingRequest, checkpoint_from_data

    request = TrainingRequest(
        data=data,
        output=output or workdir / "alexnet.safetensors",
        model=model,
        variant=variant,
        width=width,
        image_size=image_size,
        download=download,
        half=half,
        skip_bad=skip_bad,
        resume=resume,
        accumulate=accumulate,
        options=choices,
    )
    with opened_ranks(spread) as ranks:
        try:
            checkpoint_from_data(request, ranks=ranks, voice=voice)
        except (AlexnetDeployError, Stopped) as exc:
            # What all processes end with, the first one says for all; who lost the others speaks for himself.
            if ranks.first or isinstance(exc, RankLostError):
                raise
            ranks.let_first_end()
            raise click.exceptions.Exit(exc.exit_code) from exc
