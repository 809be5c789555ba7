"""Masks are the batch's: torch's own where one process takes it whole, and the same however it is cut."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from alexnet_deploy.training.dropout import BatchDropout, Rows


def passed(x: torch.Tensor, cuts: list[slice], share: slice, p: float = 0.4) -> torch.Tensor:
    """What the rows of `share` become, taken in `cuts` of it."""
    rows = Rows(batch=len(x), share=share)
    dropout = BatchDropout(p, rows)
    torch.manual_seed(3)
    dropout.begin()
    parts = []
    for cut in cuts:
        rows.own = np.arange(cut.start, cut.stop, dtype=np.int64)
        parts.append(dropout(x[share][cut]))
    return torch.cat(parts)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_whole_batch_gets_torchs_own_mask(dtype: torch.dtype) -> None:
    x = torch.rand(12, 40).to(dtype) + 1
    torch.manual_seed(3)
    wanted = torch.nn.Dropout(0.4)(x)
    rows = Rows(batch=12, share=slice(0, 12))
    dropout = BatchDropout(0.4, rows)
    torch.manual_seed(3)
    assert torch.equal(dropout(x), wanted)
    assert 0 < int((wanted == 0).sum()) < wanted.numel()


def test_a_mask_does_not_depend_on_how_the_batch_is_cut() -> None:
    x = torch.rand(12, 40) + 1
    whole = passed(x, [slice(0, 12)], slice(0, 12))
    for share, cuts in [(slice(0, 5), [slice(0, 5)]), (slice(5, 12), [slice(0, 3), slice(3, 3), slice(3, 7)])]:
        assert torch.equal(passed(x, cuts, share), whole[share])


def test_every_step_has_a_mask_of_its_own() -> None:
    x = torch.ones(4, 100)
    dropout = BatchDropout(0.5, Rows(batch=4, share=slice(0, 4)))
    first, again = dropout(x), dropout(x)
    dropout.begin()
    assert torch.equal(first, again)
    assert not torch.equal(first, dropout(x))


def test_nothing_is_dropped_or_drawn_outside_of_training_or_with_nothing_to_drop() -> None:
    x = torch.ones(4, 10)
    for dropout in (BatchDropout(0.5, Rows()).eval(), BatchDropout(0.0, Rows())):
        state = torch.get_rng_state()
        assert dropout(x) is x
        assert torch.equal(torch.get_rng_state(), state)
