"""Every target holds over the first cases of each, and the harness notices every way in which one can fail."""

from __future__ import annotations

import itertools

import pytest

from tests.fuzz import planted
from tests.fuzz.pool import Chunk, Tally, outcomes, table, tallies
from tests.fuzz.target import ACCEPTED, FAILED, REFUSED, outcome_of
from tests.fuzz.targets import TARGETS

_CHUNK = 100


@pytest.fixture(scope="module")
def accounts() -> dict[str, Tally]:
    # The slow targets first, in pieces, so that no worker is left with one at the end.
    chunks = [
        Chunk(name, first, min(_CHUNK, target.cases - first))
        for name, target in TARGETS.items()
        for first in range(0, target.cases, _CHUNK)
    ]
    return tallies(outcomes(chunks), list(TARGETS))


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_no_file_ends_in_a_traceback_a_hang_or_a_wrong_success(name: str, accounts: dict[str, Tally]) -> None:
    tally = accounts[name]
    assert not tally.failures, table({name: tally})
    assert tally.cases == TARGETS[name].cases
    # A target that refuses everything, or takes everything, asks nothing.
    assert tally.refused > 0.02 * tally.cases or name == "resumed-calibration"
    assert tally.accepted > 0.02 * tally.cases


@pytest.mark.slow
def test_there_are_ten_thousand_cases_and_more(accounts: dict[str, Tally]) -> None:
    assert sum(tally.cases for tally in accounts.values()) >= 10_000


@pytest.fixture(scope="module")
def planted_accounts() -> dict[str, Tally]:
    chunks = [Chunk(name, 0, planted.TARGETS[name].cases) for name in planted.WAYS]
    found = outcomes(chunks, targets="planted", hang_seconds=3.0, memory_bytes=2_000_000_000)
    return tallies(found, list(planted.WAYS))


@pytest.mark.parametrize(("name", "words"), [(name, words) for name, (_, words) in planted.WAYS.items()])
def test_every_way_to_fail_is_noticed_with_the_case_that_did(
    name: str, words: str | None, planted_accounts: dict[str, Tally]
) -> None:
    tally = planted_accounts[name]
    assert tally.cases == planted.TARGETS[name].cases
    if words is None:
        assert not tally.failures
        return
    (failure,) = tally.failures
    assert failure.command == f"python -m tests.fuzz {name} {planted.BAD}"
    assert words in failure.detail
    # The rest of the cases went on.
    assert tally.accepted + tally.refused == tally.cases - 1


@pytest.mark.parametrize("name", TARGETS)
def test_a_case_is_the_same_whenever_it_is_run(name: str) -> None:
    for number in range(3):
        first, again = (outcome_of(TARGETS[name], number) for _ in range(2))
        assert first.kind == again.kind in (ACCEPTED, REFUSED)
        # What a message quotes may be a path, which is another folder each time.
        assert first.detail[:20] == again.detail[:20]


def test_the_table_adds_up_and_names_the_commands() -> None:
    failing = outcome_of(planted.TARGETS["lies"], planted.BAD)
    assert failing.kind == FAILED
    by_name = tallies([failing, *(outcome_of(planted.TARGETS["lies"], number) for number in (0, 1, 2))], ["lies"])
    lines = table(by_name).splitlines()
    assert lines[2].startswith("| lies | 4 |") and lines[3].startswith("| all | 4 |")
    assert "python -m tests.fuzz lies 3" in lines


def test_outcomes_may_be_asked_for_without_end() -> None:
    endless = (Chunk("prints", first, 1) for first in itertools.count())
    found = outcomes(endless, targets="planted")
    assert [next(found).kind for _ in range(5)].count(FAILED) == 0
    found.close()  # type: ignore[attr-defined]
