"""Chunks cover the work once; answers are put in order and counted once, however they come."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alexnet_deploy.errors import SessionError
from alexnet_deploy.scale.chunks import Answer, chunks_of, in_order


@given(count=st.integers(0, 300), size=st.integers(1, 64), first=st.integers(0, 300))
def test_chunks_cover_every_position_once_in_order(count: int, size: int, first: int) -> None:
    chunks = chunks_of(count, size, first)
    assert [place for chunk in chunks for place in range(chunk.start, chunk.stop)] == list(range(first, count))
    assert [chunk.number for chunk in chunks] == list(range(len(chunks)))
    assert all(chunk.stop - chunk.start == size for chunk in chunks[:-1])


def test_a_chunk_takes_its_part_of_the_indices() -> None:
    indices = np.asarray([7, 3, 9, 1, 4])
    assert [chunk.of(indices).tolist() for chunk in chunks_of(5, 2)] == [[7, 3], [9, 1], [4]]


@given(data=st.data(), count=st.integers(1, 12))
def test_answers_come_out_once_each_in_order_whatever_order_they_come_in(data: st.DataObject, count: int) -> None:
    chunks = chunks_of(count, 1)
    repeated = data.draw(st.lists(st.sampled_from(chunks), max_size=6))
    coming = data.draw(st.permutations(chunks + repeated))
    answers = (Answer(chunk=chunk, arrays={}) for chunk in coming)
    assert [answer.chunk for answer in in_order(answers, chunks)] == chunks


@pytest.mark.parametrize("lost", [0, 3, 7])
def test_a_chunk_that_has_no_answer_is_named(lost: int) -> None:
    chunks = chunks_of(80, 10)
    answers = [Answer(chunk=chunk, arrays={}) for chunk in chunks if chunk.number != lost]
    with pytest.raises(SessionError, match="no answer") as caught:
        list(in_order(answers, chunks))
    assert f"images {10 * lost} to {10 * lost + 9}" in str(caught.value.got)
