"""A slower machine is no regression, a slower row is one; what was not measured alike is not compared."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alexnet_deploy.bench.compare import Bounds, comparison, ratio_of_turns
from alexnet_deploy.bench.documents import read_bench
from alexnet_deploy.errors import InputError
from alexnet_deploy.report.comparison import lines
from tests.bench.documents import bench_of

ROWS = {
    f"{name}/{batch}": ms * batch for name, ms in (("torch/fp32", 20.0), ("openvino/int8", 5.0)) for batch in (1, 16)
}
BOUNDS = Bounds()


def verdicts(old: dict[str, Any], new: dict[str, Any], bounds: Bounds = BOUNDS) -> dict[str, tuple[str, bool]]:
    return {row["key"]: (row["verdict"], row["regression"]) for row in comparison(old, new, bounds)["rows"]}


@pytest.mark.parametrize("seed", range(10))
def test_the_same_thing_twice_is_the_same(seed: int) -> None:
    found = verdicts(bench_of(ROWS, seed=seed), bench_of(ROWS, seed=1000 + seed))
    assert set(found) == set(ROWS)
    assert not any(regression for _, regression in found.values())
    assert {verdict for verdict, _ in found.values()} <= {"same", "unsure"}


@pytest.mark.parametrize("seed", range(10))
def test_a_row_that_takes_a_fifth_longer_is_caught_and_no_other(seed: int) -> None:
    slowed = ROWS | {"openvino/int8/16": 1.2 * ROWS["openvino/int8/16"]}
    found = verdicts(bench_of(ROWS, seed=seed), bench_of(slowed, seed=1000 + seed))
    assert found["openvino/int8/16"] == ("slower", True)
    assert [key for key, (_, regression) in found.items() if regression] == ["openvino/int8/16"]


@pytest.mark.parametrize("machine", [0.6, 1.4, 2.0])
def test_a_machine_that_is_slower_today_is_no_regression(machine: float) -> None:
    shares = dict.fromkeys(ROWS, 0.5)
    old = bench_of(ROWS, seed=1, shares=shares)
    new = bench_of(ROWS, seed=2, shares=shares, machine=machine, memory=machine)
    assert {verdict for verdict, _ in verdicts(old, new).values()} <= {"same", "unsure"}
    assert all(row["anchored"] for row in comparison(old, new, BOUNDS)["rows"])


def test_memory_that_is_slower_today_slows_what_memory_bounds_and_nothing_else() -> None:
    shares = {"openvino/int8/1": 1.0, "torch/fp32/1": 0.3}
    old, new = bench_of(ROWS, seed=1, shares=shares), bench_of(ROWS, seed=2, shares=shares, memory=1.5)
    assert not any(regression for _, regression in verdicts(old, new).values())


def test_a_slow_row_on_a_fast_day_is_caught() -> None:
    slowed = ROWS | {"torch/fp32/1": 1.25 * ROWS["torch/fp32/1"]}
    found = verdicts(bench_of(ROWS, seed=1), bench_of(slowed, seed=2, machine=0.8))
    assert found["torch/fp32/1"] == ("slower", True)


def test_a_faster_row_is_called_faster() -> None:
    better = ROWS | {"torch/fp32/1": 0.7 * ROWS["torch/fp32/1"]}
    assert verdicts(bench_of(ROWS, seed=1), bench_of(better, seed=2))["torch/fp32/1"] == ("faster", False)


def test_noise_is_unsure_and_hardly_ever_a_regression() -> None:
    regressions, unsure = 0, 0
    for seed in range(50):
        found = verdicts(bench_of(ROWS, seed=seed, noise=0.4), bench_of(ROWS, seed=1000 + seed, noise=0.4))
        regressions += sum(regression for _, regression in found.values())
        unsure += sum(verdict == "unsure" for verdict, _ in found.values())
    # Of 200 rows; the intervals are of 99 %, and only one side of them counts.
    assert regressions <= 3 and unsure > 190


def test_the_interval_is_the_exact_one_of_the_rank_test() -> None:
    # D. Bauer 1972: of 5 and 5 values at 95 %, the third smallest and largest of the differences: P(U <= 2) = 4/252.
    before, after = np.exp([0.1, 0.2, 0.3, 0.4, 0.5]), np.exp([1.1, 1.25, 1.3, 1.45, 1.6])
    differences = sorted(float(b - a) for a in np.log(before) for b in np.log(after))
    ratio, interval = ratio_of_turns(before, after, 0.95)
    assert interval == pytest.approx((np.exp(differences[2]), np.exp(differences[-3])))
    assert ratio == pytest.approx(np.exp(np.median(differences)))


def test_too_few_turns_have_no_interval_and_no_verdict() -> None:
    ratio, interval = ratio_of_turns(np.ones(2), 2 * np.ones(2), 0.99)
    assert ratio == pytest.approx(2.0) and interval is None


@pytest.mark.parametrize(("rounds", "confidence", "least"), [(2, 0.99, 5), (4, 0.99, 5), (8, 0.9999, 9)])
def test_a_gate_that_cannot_fail_is_refused(rounds: int, confidence: float, least: int) -> None:
    old, new = bench_of(ROWS, seed=1), bench_of({key: 10 * ms for key, ms in ROWS.items()}, seed=2)
    for document in (old, new):
        document["options"]["rounds"] = rounds
        for row in document["rows"]:
            row["anchor_ms"] = None
    with pytest.raises(InputError, match="too few turns") as caught:
        comparison(old, new, Bounds(confidence=confidence))
    assert str(caught.value.expected).startswith(str(least))


def test_benches_in_which_no_row_ran_in_both_are_refused() -> None:
    old, new = bench_of(ROWS, seed=1), bench_of(ROWS, seed=2)
    for row in old["rows"]:
        row |= {"status": "failed", "reason": "it fell back"}
    with pytest.raises(InputError, match="nothing to compare"):
        comparison(old, new, BOUNDS)


def test_ratio_and_interval_are_new_over_old() -> None:
    old, new = bench_of(ROWS, seed=1), bench_of({key: 2 * ms for key, ms in ROWS.items()}, seed=2)
    for row in comparison(old, new, BOUNDS)["rows"]:
        assert row["ratio"] == pytest.approx(2, rel=0.03) and row["raw_ratio"] == pytest.approx(2, rel=0.03)
        assert row["ci"][0] < row["ratio"] < row["ci"][1]
        assert row["reasons"][0].startswith(f"{100 * (row['ratio'] - 1):.0f} % slower (")


def test_accuracy_that_falls_is_a_regression() -> None:
    old, new = bench_of(ROWS, seed=1), bench_of(ROWS, seed=2, top1={"openvino/int8/1": 0.89})
    row = next(row for row in comparison(old, new, BOUNDS)["rows"] if row["key"] == "openvino/int8/1")
    assert row["regression"] and "top1 fell by 1.00 points" in row["reasons"][0]
    assert not any(row["regression"] for row in comparison(old, new, Bounds(drop=0.02))["rows"])


def test_without_labels_agreement_counts() -> None:
    old, new = bench_of(ROWS, seed=1), bench_of(ROWS, seed=2)
    for document, agreement in ((old, 0.99), (new, 0.97)):
        for row in document["rows"]:
            row |= {"top1": None, "agreement": agreement}
    assert all("agreement fell by 2.00" in row["reasons"][0] for row in comparison(old, new, BOUNDS)["rows"])


def test_a_row_that_does_not_run_any_more_is_a_regression() -> None:
    old, new = bench_of(ROWS, seed=1), bench_of(ROWS, seed=2)
    new["rows"][0] |= {"status": "failed", "reason": "it fell back"}
    del new["rows"][1]
    found = {row["key"]: row for row in comparison(old, new, BOUNDS)["rows"]}
    assert found[old["rows"][0]["key"]]["regression"] and "it fell back" in found[old["rows"][0]["key"]]["reasons"][0]
    assert found[old["rows"][1]["key"]]["regression"]
    back = {row["key"]: row for row in comparison(new, old, BOUNDS)["rows"]}
    assert [back[old["rows"][k]["key"]]["verdict"] for k in (0, 1)] == ["new", "new"]
    assert not any(row["regression"] for row in back.values())


def test_what_ran_in_neither_has_no_verdict() -> None:
    old, new = bench_of(ROWS, seed=1), bench_of(ROWS, seed=2)
    for document in (old, new):
        document["rows"][0] |= {"status": "skipped", "reason": "no CUDA device"}
    row = next(row for row in comparison(old, new, BOUNDS)["rows"] if row["key"] == old["rows"][0]["key"])
    assert (row["verdict"], row["regression"]) == (None, False)


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("environment", "cpu"), "Another", "CPU: A processor and Another"),
        (("environment", "cpu_family"), "25/1/1", "CPU family: None and 25/1/1"),
        (("environment", "cpu_flags"), ["avx2"], "CPU flags: None and ['avx2']"),
        (("options", "threads"), 4, "threads: 2 and 4"),
        (("options", "scope"), "end-to-end", "scope"),
        (("data", "images"), 100, "number of images"),
        (("anchor", "version"), 2, "anchor"),
        (("environment", "gpu"), "NVIDIA H100", "GPU: None and NVIDIA H100"),
        (("environment", "gpus"), 1, "GPUs"),
        (("data", "labelled"), False, "labels"),
    ],
)
def test_what_was_not_measured_alike_is_refused(path: tuple[str, str], value: object, words: str) -> None:
    old, new = bench_of(ROWS, seed=1), bench_of(ROWS, seed=2)
    new[path[0]] = new[path[0]] | {path[1]: value}
    with pytest.raises(InputError, match="same thing") as caught:
        comparison(old, new, BOUNDS)
    assert words in str(caught.value.got)
    if path[1] == "scope":
        assert "--anyway" not in str(caught.value.remedy)
        with pytest.raises(InputError, match="same thing"):
            comparison(old, new, BOUNDS, anyway=True)
    else:
        assert "--anyway" in str(caught.value.remedy)
        assert words in comparison(old, new, BOUNDS, anyway=True)["different"][0]


@pytest.mark.parametrize("change", [{"environment": {"cpu": "Another", "cpus": 2}}, {"anchor": {"version": 2}}])
def test_anchors_of_other_work_are_not_divided_by(change: dict[str, Any]) -> None:
    slowed = {key: 1.9 * ms for key, ms in ROWS.items()}
    old, new = bench_of(ROWS, seed=1), bench_of(slowed, seed=2) | change
    for row in new["rows"]:
        row["anchor_ms"] = {piece: [2 * time for time in times] for piece, times in row["anchor_ms"].items()}
    document = comparison(old, new, BOUNDS, anyway=True)
    assert not any(row["anchored"] for row in document["rows"])
    assert document["regressions"] == list(ROWS)


def test_samples_taken_in_two_ways_are_not_compared() -> None:
    old, new = bench_of(ROWS, seed=1), bench_of(ROWS, seed=2)
    new["rows"][0]["evaluated"] = True
    with pytest.raises(InputError) as caught:
        comparison(old, new, BOUNDS)
    assert old["rows"][0]["key"] in str(caught.value.got) and "evaluating" in str(caught.value.got)


def test_without_an_anchor_raw_times_are_compared_and_it_is_said() -> None:
    old, new = bench_of(ROWS, seed=1), bench_of(ROWS, seed=2, machine=1.3)
    for row in new["rows"]:
        row["anchor_ms"] = None
    document = comparison(old, new, BOUNDS)
    assert not any(row["anchored"] for row in document["rows"]) and len(document["regressions"]) == len(ROWS)


def test_both_are_divided_by_the_same_mix_of_anchors() -> None:
    old, new = bench_of(ROWS, seed=1), bench_of(ROWS, seed=2)
    for row in old["rows"]:
        row["roofline"] = {"memory_share": 1.0}
    assert not comparison(old, new, BOUNDS)["regressions"]


def test_turns_of_requests_in_flight_are_compared_by_their_mean() -> None:
    # Two kinds of requests, short and long: the median is the one or the other by chance.
    old, new = bench_of(ROWS, seed=1, noise=0.001), bench_of(ROWS, seed=2, noise=0.001)
    for document, longer in ((old, 2), (new, 3)):
        for row in document["rows"]:
            row["in_flight"] = 2
            row["samples_ms"] = ([10.0] * (4 - longer) + [30.0] * longer) * 8
    assert all(row["ratio"] == pytest.approx(25 / 20, rel=0.01) for row in comparison(old, new, BOUNDS)["rows"])


def test_the_documents_are_left_as_they_were() -> None:
    old, new = bench_of(ROWS, seed=1), bench_of(ROWS, seed=2)
    before = copy.deepcopy((old, new))
    comparison(old, new, BOUNDS)
    assert (old, new) == before


@pytest.mark.parametrize("values", [{"slower": -1}, {"drop": 2}, {"confidence": 1.0}, {"confidence": 0.1}])
def test_bounds_that_cannot_be_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(InputError):
        Bounds(**values)


NO_BENCHES = ("", "[]", "{}", '{"schema": 1, "rows": []}', '{"schema": 2}', "\0", '{"schema": 2, "rows": 3}')


@pytest.mark.parametrize("text", NO_BENCHES)
def test_a_file_that_is_no_bench_is_said_to_be_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bench.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r"bench\.json is no bench"):
        read_bench(path)


def broken(**changed: Any) -> str:
    document = bench_of(ROWS, seed=1)
    document["rows"][0] |= changed
    return json.dumps(document)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (broken(samples_ms=[]), "no samples"),
        (broken(samples_ms=[1.0, 0.0]), "no times"),
        (broken(samples_ms=[1.0, -2.0]), "no times"),
        (broken(samples_ms="abc"), "no samples"),
        (broken(samples_ms=[True]), "no samples"),
        (broken(latency_ms=None), "no median"),
        (broken(anchor_ms={"compute": [1.0]}), "anchor"),
        (broken(anchor_ms={"compute": [0], "memory": [1]}), "anchor"),
        (broken(top1=1.5), "fraction"),
        (broken(top1="high"), "fraction"),
        (broken(roofline={"memory_share": 2}), "roofline"),
        (broken(status="fine"), "status"),
        (broken(key=3), "without a key"),
        (broken(key="torch/fp32/16"), "stands twice"),
        (broken(samples_ms=[float("nan")]), "NaN"),
        (json.dumps(bench_of(ROWS, seed=1) | {"made": None}), "no date"),
        (json.dumps(bench_of(ROWS, seed=1) | {"options": []}), "no options"),
        (json.dumps(bench_of(ROWS, seed=1) | {"rows": [1, 2]}), "without a key"),
        ("[" * 100_000, "no bench"),
    ],
)
def test_a_bench_that_holds_what_no_bench_writes_is_refused(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "bench.json"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        read_bench(path)
    assert words in str(caught.value)


def test_a_bench_is_read(tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    document = bench_of(ROWS, seed=1)
    path.write_text(json.dumps(document))
    assert read_bench(path) == document


@pytest.mark.parametrize(
    ("asked", "batches", "left"),
    [
        ({"runtimes": ["openvino"], "precisions": []}, [1, 16], {"torch/fp32/1", "torch/fp32/16"}),
        ({"runtimes": [], "precisions": ["int8"]}, [1, 16], {"torch/fp32/1", "torch/fp32/16"}),
        ({"runtimes": [], "precisions": []}, [1], {"torch/fp32/16", "openvino/int8/16"}),
        ({"runtimes": [], "precisions": [], "rows": ["openvino/int8"]}, [1, 16], {"torch/fp32/1", "torch/fp32/16"}),
    ],
)
def test_rows_that_were_not_asked_for_are_not_judged(
    asked: dict[str, list[str]], batches: list[int], left: set[str]
) -> None:
    old, new = bench_of(ROWS, seed=1), bench_of(ROWS, seed=2)
    new["rows"] = [row for row in new["rows"] if row["key"] not in left]
    assert all(verdicts(old, new)[key] == ("gone", True) for key in left)
    new["asked"], new["options"] = asked, new["options"] | {"batches": batches}
    found = comparison(old, new, BOUNDS)
    assert {row["key"] for row in found["rows"] if row["verdict"] == "not asked for"} == left
    assert found["regressions"] == []
    assert f"{len(left)} rows of the old bench were not asked for" in " ".join(lines(found))
    # What was asked for and is not there is still a regression.
    new["rows"].pop()
    assert len(comparison(old, new, BOUNDS)["regressions"]) == 1


def test_conditions_that_were_not_clean_are_said_with_the_verdict() -> None:
    old, new = bench_of(ROWS, seed=1), bench_of(ROWS, seed=2)
    new["conditions"] = {"warnings": ["1.0 CPUs were busy"]}
    assert "the new bench was not clean: 1.0 CPUs were busy" in lines(comparison(old, new, BOUNDS))
    wrong: list[Any] = [{"warnings": 3}, [], None, "busy"]
    for nonsense in wrong:
        new["conditions"] = nonsense
        assert comparison(old, new, BOUNDS)["doubts"] == {"old": [], "new": []}


def test_agreement_with_two_references_is_not_compared() -> None:
    old, new = bench_of(ROWS, seed=1), bench_of(ROWS, seed=2)
    for document in (old, new):
        for row in document["rows"]:
            row |= {"top1": None, "agreement": 0.99}
    new["rows"][0]["agreement"] = 0.5
    old["reference"] = new["reference"] = "torch/fp32"
    assert comparison(old, new, BOUNDS)["regressions"] == [new["rows"][0]["key"]]
    new["reference"] = "onnxruntime-cpu/fp32"
    found = comparison(old, new, BOUNDS)
    assert found["regressions"] == [] and found["rows"][0]["accuracy"]["change"] is None
