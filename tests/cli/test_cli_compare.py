"""`compare` as a gate: what it prints, and how it ends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.bench.documents import bench_of
from tests.cli.conftest import Ended, Run, assert_refused

ROWS = {"torch/fp32/1": 20.0, "openvino/int8/1": 5.0}
SLOWED = ROWS | {"openvino/int8/1": 6.5}


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def written(name: str, document: dict[str, Any]) -> Path:
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(document))
        return path

    return written


def test_the_same_thing_twice_passes(run: Run, write: Any) -> None:
    ended: Ended = run("compare", write("old", bench_of(ROWS, seed=1)), write("new", bench_of(ROWS, seed=2)))
    assert (ended.code, ended.err) == (0, "")
    assert "no regression in 2 rows that ran in both" in ended.out and "openvino/int8/1" in ended.out


def test_a_regression_ends_with_three_and_says_which(run: Run, write: Any) -> None:
    files = write("old", bench_of(ROWS, seed=1)), write("new", bench_of(SLOWED, seed=2))
    ended: Ended = run("compare", *files)
    assert ended.code == 3 and "1 regression in 2 rows" in ended.out
    assert "slower (regression)" in ended.out and "% slower (" in ended.out
    document = run("compare", *files, "--json")
    assert document.code == 3 and document.document["regressions"] == ["openvino/int8/1"]
    assert run("compare", *files, "--max-slower", 50).code == 0


def test_the_table_in_markdown_has_the_same_rows(run: Run, write: Any) -> None:
    files = write("old", bench_of(ROWS, seed=1)), write("new", bench_of(SLOWED, seed=2))
    ended: Ended = run("compare", *files, "--markdown")
    assert ended.code == 3
    head, rule, *rows = ended.out.splitlines()
    assert head.count("|") == rule.count("|") == rows[0].count("|") == rows[1].count("|")
    # Anything else, such as a dash that is escaped, makes no table of it.
    assert set(rule) == {"|", "-"}
    assert "openvino/int8/1" in rows[1] and "- 1 regression" in ended.out


def test_benches_of_two_machines_are_refused_or_compared_raw(run: Run, write: Any) -> None:
    other = bench_of(ROWS, seed=2)
    other["environment"]["cpu"] = "Another"
    files = write("old", bench_of(ROWS, seed=1)), write("new", other)
    assert_refused(run("compare", *files), 2, "did not measure the same thing", "Another", "--anyway")
    ended: Ended = run("compare", *files, "--anyway")
    assert ended.code == 0 and "compared all the same" in ended.out and "without an anchor" in ended.out


@pytest.mark.parametrize("text", ["{}", "no JSON", '{"schema": 2, "rows": [3]}'])
def test_a_file_that_is_no_bench_is_refused(run: Run, write: Any, tmp_path: Path, text: str) -> None:
    path = tmp_path / "other.json"
    path.write_text(text)
    assert_refused(run("compare", write("old", bench_of(ROWS, seed=1)), path), 2, "other.json", "no bench")


def test_a_file_that_is_not_there_is_usage(run: Run, write: Any, tmp_path: Path) -> None:
    ended: Ended = run("compare", write("old", bench_of(ROWS, seed=1)), tmp_path / "nothing.json")
    assert ended.code == 2 and "nothing.json" in ended.err and ended.out == ""


@pytest.mark.parametrize("options", [["--max-slower", "-1"], ["--confidence", "100"], ["--max-drop", "101"]])
def test_bounds_that_cannot_be_are_usage(run: Run, write: Any, options: list[str]) -> None:
    ended: Ended = run("compare", write("old", bench_of(ROWS, seed=1)), write("new", bench_of(ROWS, seed=2)), *options)
    assert ended.code == 2 and "Error" in ended.err


@pytest.mark.parametrize(
    "options", [["--batch", "1"], ["--runs", "5"], ["--scope", "end-to-end"], ["--no-details"], ["--batch", "1,16"]]
)
def test_what_the_load_generator_decides_cannot_be_given_with_a_scenario(run: Run, options: list[str]) -> None:
    ended: Ended = run("bench", "--scenario", "offline", *options)
    assert ended.code == 2 and "--scenario" in ended.err and options[0].replace("--no-", "--") in ended.err


@pytest.mark.parametrize("options", [["--valid-length"], ["--target-qps", "5"], ["--target-latency", "9"]])
def test_options_of_a_scenario_cannot_be_given_without_one(run: Run, options: list[str]) -> None:
    ended: Ended = run("bench", *options)
    assert ended.code == 2 and "--scenario" in ended.err
