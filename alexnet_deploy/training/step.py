"""One step of the optimizer on a batch, which several processes may share, each in several parts."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alexnet_deploy.errors import DivergedError
from alexnet_deploy.interrupts import StopRequest
from alexnet_deploy.network import AlexNet
from alexnet_deploy.training.dropout import BatchDropout, Rows
from alexnet_deploy.training.feed import Part, StepBatch
from alexnet_deploy.training.options import TrainingOptions, learning_rate_at
from alexnet_deploy.training.pruning import Pruner
from alexnet_deploy.training.ranks import Exchanged, Ranks

# Any odd multiplier keeps the seeds of neighbouring steps apart.
_SEED_STRIDE = 1_000_003


class _Forward(nn.Module):
    """The pass of a step as a module of its own, which torch's data parallelism can wrap."""

    def __init__(self, network: AlexNet, head_only: bool) -> None:
        super().__init__()
        self.network, self.head_only = network, head_only

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.network.head(inputs) if self.head_only else self.network(inputs)
        return logits


class Stepper:
    """Network, optimizer and pruning of a run; the gradient is that of the mean loss over the whole batch.

    Args:
        network: Trained in place; its dropout layers are replaced by ones whose masks are the batch's.
        options: What is learnt, and how.
        ranks: The processes.
        accumulate: Parts of a process's share.
        total_steps: Length of the run.
        bf16: Whether to autocast.
    """

    def __init__(
        self,
        network: AlexNet,
        options: TrainingOptions,
        ranks: Ranks,
        *,
        accumulate: int,
        total_steps: int,
        bf16: bool,
    ) -> None:
        self.network, self.options, self.ranks = network, options, ranks
        self.accumulate, self.total_steps, self.bf16 = accumulate, total_steps, bf16
        self._rows, self._dropouts = Rows(), list[BatchDropout]()
        for name, module in list(network.named_children()):
            if isinstance(module, nn.Dropout):
                self._dropouts.append(BatchDropout(options.dropout, self._rows))
                setattr(network, name, self._dropouts[-1])
        self.parameters = list(network.parameters())
        if options.head_only:
            for parameter in self.parameters:
                parameter.requires_grad_(False)
            self.parameters = [p for n, p in network.named_parameters() if n.startswith("fc")]
            for parameter in self.parameters:
                parameter.requires_grad_(True)
        self.optimizer = _optimizer(self.parameters, options, fused=ranks.device.type == "cpu")
        self._pruner = Pruner(network, options.density, total_steps)
        self._model: nn.Module = _Forward(network, options.head_only)
        # Passes backward until torch's data parallelism has its buckets in the order in which gradients come.
        self._unsettled = 2 if ranks.size > 1 else 0

    def resume(self) -> None:
        """The network and the optimizer are those of a state now."""
        self._pruner = Pruner(self.network, self.options.density, self.total_steps)

    def join(self) -> None:
        """From here on, gradients are averaged over the processes."""
        self._model = self.ranks.model(self._model)

    def step(self, batch: StepBatch, number: int, stop: StopRequest, due: bool) -> Exchanged:
        """Takes step `number`, or none where no image of the batch can be read.

        Args:
            batch: What this process computes of the batch.
            number: The step, from which rate and masks follow.
            stop: What this process alone has been told.
            due: Whether this process wants to save.

        Returns:
            Sums over the batch, the same on all processes: of losses, of right answers, of images, and of `due`.

        Raises:
            DivergedError: The loss is not finite; the weights are as before.
            RankError: Another process could not go on.
        """
        torch.manual_seed(self.options.seed * _SEED_STRIDE + number)
        rate = learning_rate_at(number, self.total_steps, self.options)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad()
        loss, told = self._losses(batch, stop, due)
        count = told.sums[2]
        if not count:
            return told
        mean = told.sums[0] / count
        if not np.isfinite(mean):
            raise DivergedError(f"the loss is {mean} at step {number}", remedy="lower --learning-rate")
        self.ranks.backward(loss)
        self._unsettled = max(0, self._unsettled - 1)
        if count != batch.size:
            for parameter in self.parameters:
                assert parameter.grad is not None
                parameter.grad.mul_(batch.size / count)
        nn.utils.clip_grad_norm_(self.parameters, self.options.clip_norm)
        self.optimizer.step()
        self._pruner.after_step(number)
        return told

    def _losses(self, batch: StepBatch, stop: StopRequest, due: bool) -> tuple[Tensor, Exchanged]:
        """All passes of this process but the last one backward, and what all processes together make of them."""
        self._rows.batch, self._rows.share = batch.size, batch.share
        for dropout in self._dropouts:
            dropout.begin()
        total, right, count, failure = 0.0, 0, 0, None
        loss = torch.zeros(())
        parts = self._loaded(batch.parts) if self._unsettled else batch.parts
        try:
            for index, part in enumerate(parts):
                last = index == self.accumulate - 1
                with contextlib.nullcontext() if last else self.ranks.apart(self._model):
                    loss, value, answers = self._loss(part, batch.size)
                    if not last:
                        loss.backward()  # type: ignore[no-untyped-call]
                total, right, count = total + value, right + answers, count + len(part.labels)
        except Exception as exc:  # the others wait for this process at the exchange, and must hear of it there
            failure = exc
        return loss, self.ranks.exchange(total, right, count, due, signal=stop.number, failure=failure)

    def _loaded(self, parts: Iterable[Part]) -> list[Part]:
        """The parts, where all processes have theirs.

        When buckets are put in order, processes speak to each other within the pass forward: one that failed to load
        its images would leave the others waiting there.
        """
        found, failure = list[Part](), None
        try:
            found.extend(parts)
        except Exception as exc:  # as above
            failure = exc
        self.ranks.exchange(failure=failure)
        return found

    def _loss(self, part: Part, batch: int) -> tuple[Tensor, float, int]:
        """What to run backward, and the sums of losses and of right answers.

        The parts of all processes add up to the mean over the batch, whatever their sizes; processes are averaged.
        """
        inputs, labels = part.inputs.to(self.ranks.device), part.labels.to(self.ranks.device)
        if inputs.dim() == 4:
            inputs = inputs.to(memory_format=torch.channels_last)
        whole = len(part.own) == self._rows.share.stop - self._rows.share.start
        self._rows.own = None if whole else part.own
        with torch.autocast(self.ranks.device.type, torch.bfloat16, enabled=self.bf16):
            logits = self._model(inputs)
        if not len(labels):
            # The others wait for this process's gradients, which are nought.
            return logits.float().sum() * 0.0, 0.0, 0
        loss = F.cross_entropy(logits.float(), labels, label_smoothing=self.options.label_smoothing)
        right = int((logits.argmax(1) == labels).sum())
        return loss * (len(labels) * self.ranks.size / batch), loss.item() * len(labels), right


def _optimizer(parameters: list[nn.Parameter], options: TrainingOptions, *, fused: bool) -> torch.optim.Optimizer:
    # Biases are not decayed; they are few and have no scale to shrink to.
    weights = [p for p in parameters if p.dim() > 1]
    biases = [p for p in parameters if p.dim() == 1]
    groups = [
        {"params": weights, "weight_decay": options.weight_decay},
        {"params": biases, "weight_decay": 0.0},
    ]
    if options.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=options.learning_rate, momentum=0.9, nesterov=True, foreach=True)
    return torch.optim.AdamW(groups, lr=options.learning_rate, betas=(0.9, 0.98), fused=fused)
