"""What `python -m benchmarks.peers` does besides measuring: environments, the choice, what is missing, the tables."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from alexnet_deploy.artifacts import passport_path
from alexnet_deploy.bench.candidate import BenchOptions
from alexnet_deploy.errors import InputError, RuntimeUnavailableError, SessionError
from alexnet_deploy.progress import SILENT
from benchmarks import peer_jobs, peer_run, peers
from benchmarks.peer_environments import RECIPES, Environment, commands, made_environment, named_environment
from benchmarks.peer_jobs import LRN_NODE, MINMAX, MODELOPT_JOBS, NNCF_JOBS, TORCH, Job, Quantizer, chosen, costed
from benchmarks.peer_rows import headlines, takes, with_ratios
from benchmarks.peer_run import Asked, Run, accuracy_in
from benchmarks.peer_settings import settings
from benchmarks.peer_tables import SCHEMA, markdown, summary
from benchmarks.peer_work import Work
from benchmarks.peer_worker import facts_of

Ended = subprocess.CompletedProcess[str]


class Shell:
    """Stands in for `subprocess.run`: keeps the commands, fails where it is told to.

    Args:
        packages: What pip lists.
        broken: A word of the command that fails.
    """

    def __init__(self, packages: dict[str, str] | None = None, broken: str | None = None) -> None:
        self.packages, self.broken, self.seen = packages or {}, broken, list[list[str]]()

    def __call__(self, command: list[str]) -> Ended:
        self.seen.append(command)
        if self.broken in command:
            return Ended(command, 1, "", "Collecting nncf\nERROR: No matching distribution found for nncf==3.4.0")
        if "venv" in command:
            Path(command[-1]).mkdir(parents=True)
        listed = [{"name": name, "version": version} for name, version in self.packages.items()]
        return Ended(command, 0, json.dumps(listed) if "list" in command else "", "")


@pytest.fixture(autouse=True)
def _much_space(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _path: type("Usage", (), {"free": 10**12}))


def test_an_environment_is_made_once_of_pinned_versions(tmp_path: Path) -> None:
    shell = Shell({"nncf": "3.4.0", "scipy": "1.0"})
    made = made_environment("nncf", tmp_path, SILENT, shell)
    place = Path(made.python).parent.parent
    assert shell.seen[:2] == commands(RECIPES["nncf"], place)
    assert shell.seen[0] == [sys.executable, "-m", "venv", str(place)]
    assert shell.seen[1][:3] == [made.python, "-m", "pip"] and "nncf==3.4.0" in shell.seen[1]
    assert all("==" in pin for recipe in RECIPES.values() for pin in recipe.pins)
    assert made.facts == {
        "from": "made", "pins": list(RECIPES["nncf"].pins), "packages": {"nncf": "3.4.0", "scipy": "1.0"},
    }  # fmt: skip
    assert str(tmp_path) not in json.dumps(made.facts)
    again = Shell()
    assert made_environment("nncf", tmp_path, SILENT, again) == made and again.seen == []


def test_an_environment_that_was_cut_short_is_made_anew(tmp_path: Path) -> None:
    made_environment("nncf", tmp_path, SILENT, Shell({"nncf": "3.4.0"}))
    (place,) = tmp_path.iterdir()
    (place / "ready.json").unlink()
    (place / "half").touch()
    shell = Shell({"nncf": "3.4.0"})
    made_environment("nncf", tmp_path, SILENT, shell)
    assert len(shell.seen) == 3 and not (place / "half").exists()


def test_an_environment_that_cannot_be_made_says_why_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeUnavailableError, match="no environment for nncf") as raised:
        made_environment("nncf", tmp_path, SILENT, Shell(broken="install"))
    assert "No matching distribution" in str(raised.value) and "--nncf-python" in str(raised.value)
    assert list(tmp_path.iterdir()) == []


def test_without_space_nothing_is_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _path: type("Usage", (), {"free": 3 * 10**9}))
    shell = Shell()
    with pytest.raises(RuntimeUnavailableError, match="no space") as raised:
        made_environment("modelopt", tmp_path, SILENT, shell)
    assert "3.0 GB free" in str(raised.value) and shell.seen == []


def test_a_named_environment_without_the_peer_is_refused() -> None:
    assert named_environment("modelopt", "py", Shell({"nvidia-modelopt": "0.47.0"})).facts["from"] == "named"
    with pytest.raises(InputError, match="py has no nvidia-modelopt"):
        named_environment("modelopt", "py", Shell({"torch": "2"}))
    with pytest.raises(InputError, match="no interpreter that answers"):
        raise_full(named_environment, "nncf", "/nowhere/python")


def raise_full(function: Any, *arguments: Any) -> None:
    """Puts the whole message where `match` looks."""
    try:
        function(*arguments)
    except InputError as exc:
        raise InputError(str(exc)) from exc


def asked(tmp_path: Path, **changed: Any) -> Asked:
    values: dict[str, Any] = {
        "bench": BenchOptions(runs=4, rounds=2), "turns": 1, "images": 8, "data": "shipped", "limit": None,
        "without": (), "pythons": {}, "environments": tmp_path / "envs", "workdir": tmp_path / "work",
    }  # fmt: skip
    return Asked(**{**values, **changed})


def test_a_missing_tool_is_in_the_document_with_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unavailable(tool: str, *_rest: object) -> Environment:
        raise RuntimeUnavailableError(f"no environment for {tool}", got="no index")

    monkeypatch.setattr(peer_run, "made_environment", unavailable)
    run = Run(asked(tmp_path, without=("modelopt",)), voice=SILENT)
    assert run.tools == {}
    assert [entry["peer"] for entry in run.left_out] == ["modelopt", "nncf"]
    assert "--without" in run.left_out[0]["reason"] and "no index" in run.left_out[1]["reason"]


def test_the_choice_is_by_the_geometric_mean() -> None:
    assert chosen({MINMAX[0]: [10.0, 160.0], MINMAX[1]: [12.0, 130.0], MINMAX[2]: [20.0, 100.0]}) == MINMAX[1]
    assert chosen({MINMAX[3]: [10.0], MINMAX[0]: [9.0]}) == MINMAX[0]


def test_the_other_methods_run_on_the_chosen_graph_alone() -> None:
    labels = [job.label for job in costed(MINMAX[2], ["nncf"])]
    assert labels == [
        "quantize_static MinMax u8s8, torch's export", "quantize_static Entropy u8s8, torch's export",
        "quantize_static Percentile u8s8, torch's export", "nncf, LRN node",
    ]  # fmt: skip
    assert [job.tool for job in costed(None, ["modelopt"])] == ["modelopt", "modelopt"]
    everything = [*MINMAX, *NNCF_JOBS, *MODELOPT_JOBS]
    assert len({job.file for job in everything}) == len({job.label for job in everything}) == len(everything)


def test_each_runtime_gets_what_it_takes() -> None:
    taken = {
        runtime: {job.label for job in (*MINMAX, *NNCF_JOBS, *MODELOPT_JOBS) if takes(runtime, job)}
        for runtime in ("onnxruntime-cpu", "openvino")
    }
    assert not any("nncf" in label for label in taken["onnxruntime-cpu"]) and len(taken["onnxruntime-cpu"]) == 7
    assert not any("s8s8" in label for label in taken["openvino"]) and len(taken["openvino"]) == 7


def test_what_was_made_stays_and_what_was_measured_is_forgotten(tmp_path: Path) -> None:
    work, file, calls = Work(tmp_path), tmp_path / "graph", list[str]()

    def make() -> str:
        calls.append("made")
        file.touch()
        return "facts"

    for request in (1, 1, 2):
        assert work.made("step", request, file, make) == "facts"
    assert len(calls) == 2
    file.unlink()
    work.made("step", 2, file, make)
    assert len(calls) == 3
    for _ in range(2):
        work.measured("time", 1, make)
    assert len(calls) == 4
    work.forget_measured()
    work.measured("time", 1, make)
    work.made("step", 2, file, make)
    assert len(calls) == 5


@pytest.fixture
def quantizer(tmp_path: Path) -> Quantizer:
    graph, images = tmp_path / "alexnet.onnx", tmp_path / "images.npy"
    for path in (graph, passport_path(graph), images):
        path.write_bytes(b"x")
    environments = {tool: Environment(python=f"{tool}-python", facts={"packages": {}}) for tool in RECIPES}
    return Quantizer(
        work=Work(tmp_path), fp32=graph, graphs={LRN_NODE: graph, TORCH: graph}, images=(images, 8),
        environments=environments, left_out=[], voice=SILENT,
    )  # fmt: skip


class Workers:
    """Stands in for the processes that quantize; those of the module `broken` fail."""

    def __init__(self, broken: str | None = None) -> None:
        self.broken, self.seen = broken, list[tuple[str, str]]()

    def __call__(self, python: str, module: str, *arguments: Any, folder: Path | None = None) -> dict[str, Any]:
        self.seen.append((python, module))
        if module == self.broken:
            raise SessionError(f"{module} failed", got="exit code 1; no such operator")
        facts: dict[str, Any] = {"seconds": float(len(self.seen)), "peak_memory_bytes": 10**9}
        if module == "peer_ours":
            assert sorted(path.name for path in Path(arguments[0]).iterdir()) == ["alexnet.onnx", "alexnet.onnx.json"]
        else:
            assert folder is not None and arguments[0].parent == folder
            arguments[2].write_bytes(module.encode())
            if arguments[2].suffix == ".xml":
                arguments[2].with_suffix(".bin").write_bytes(b"weights")
        return {**facts, "calibration": facts} if module in ("peer_ours", "peer_static") else facts


def test_costs_are_taken_in_turns_and_leave_the_files(quantizer: Quantizer, monkeypatch: pytest.MonkeyPatch) -> None:
    workers = Workers()
    monkeypatch.setattr(peer_jobs, "facts_of", workers)
    jobs = [MINMAX[0], NNCF_JOBS[0]]
    costs = quantizer.costs(jobs, 3)
    assert workers.seen == [
        (sys.executable, "peer_ours"), (sys.executable, "peer_static"), ("nncf-python", "peer_nncf"),
    ] * 3  # fmt: skip
    assert [cost["way"] for cost in costs] == ["ours", *(job.label for job in jobs)]
    assert costs[1]["whole"]["samples_s"] == [2.0, 5.0, 8.0] and costs[1]["calibration"]["median_s"] == 5.0
    assert costs[2]["calibration"] is None and costs[2]["turns"] == 3
    files = quantizer.files(jobs)
    assert len(workers.seen) == 9 and files[NNCF_JOBS[0]].with_suffix(".bin").read_bytes() == b"weights"
    quantizer.costs(jobs, 3)
    assert len(workers.seen) == 9, "a run that was cut does not start over"
    quantizer.work.forget_measured()
    quantizer.costs(jobs, 1)
    assert len(workers.seen) == 12, "a new run measures anew"


def test_a_tool_that_fails_is_left_out_and_the_others_go_on(
    quantizer: Quantizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peer_jobs, "facts_of", Workers(broken="peer_modelopt"))
    jobs = [MODELOPT_JOBS[0], NNCF_JOBS[0]]
    assert [cost["way"] for cost in quantizer.costs(jobs, 2)] == ["ours", "nncf, LRN node"]
    assert list(quantizer.files(jobs)) == [NNCF_JOBS[0]]
    (entry,) = quantizer.left_out
    assert entry["peer"] == "modelopt entropy, LRN node" and "no such operator" in entry["reason"]


def test_a_tool_that_is_left_out_is_not_started(quantizer: Quantizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_jobs, "facts_of", Workers(broken="peer_nncf"))
    quantizer.left_out.append({"peer": "nncf", "reason": "no index"})
    assert quantizer.files(NNCF_JOBS) == {} and len(quantizer.left_out) == 1


def test_a_worker_that_fails_says_what_it_said_last(tmp_path: Path) -> None:
    with pytest.raises(SessionError, match="peer_nowhere failed") as raised:
        facts_of(sys.executable, "peer_nowhere", folder=tmp_path)
    assert "No module named benchmarks.peer_nowhere" in str(raised.value)


def row(way: str, tool: str, median: float, **changed: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "way": way, "tool": tool, "graph": LRN_NODE, "method": None, "types": None, "runtime": "onnxruntime-cpu",
        "precision": "int8", "hint": None, "batch": 1, "latency_ms": {"median": median}, "samples_ms": [median] * 4,
        "drop": 0.001, "agreement": 0.998, "top1": 0.91, "flips": {"lost": 3, "won": 1, "p_value": 0.625},
        "peak_memory_bytes": 5 * 10**8, "images": 2000,
    }  # fmt: skip
    return {**values, **changed}


ROWS = [
    row("ours", "ours", 10.0, precision="fp32"),
    row(LRN_NODE, "onnx", 17.0, precision="fp32"),
    row(TORCH, "torch", 13.5, precision="fp32"),
    row("ours", "ours", 5.0),
    row(MINMAX[0].label, "quantize_static", 11.0),
    row(MINMAX[2].label, "quantize_static", 10.0),
    row("ours", "ours", 8.0, precision="fp32", runtime="openvino"),
    row("ours", "ours", 4.0, precision="fp32", runtime="openvino", hint="bf16"),
    row(TORCH, "torch", 16.0, precision="fp32", runtime="openvino"),
    row(TORCH, "torch", 6.0, precision="fp32", runtime="openvino", hint="bf16"),
    row("ours", "ours", 3.0, runtime="openvino"),
    row("ours", "ours", 2.0, runtime="openvino", hint="bf16"),
    row("nncf, LRN node", "nncf", 6.0, runtime="openvino"),
    row("nncf, LRN node", "nncf", 3.0, runtime="openvino", hint="bf16"),
]


def test_a_row_is_held_against_ours_in_its_precision_with_its_hint() -> None:
    ratios = {
        (r["runtime"], r["precision"], r["hint"], r["way"]): r["ours_faster"]["median"] for r in with_ratios(ROWS, 2)
    }
    assert ratios["openvino", "int8", None, "nncf, LRN node"] == 2.0
    assert ratios["openvino", "int8", "bf16", "nncf, LRN node"] == 1.5
    assert ratios["openvino", "int8", None, "ours"] == 1.0 and ratios["openvino", "int8", "bf16", "ours"] == 1.0
    assert ratios["openvino", "fp32", None, TORCH] == 2.0 and ratios["openvino", "fp32", "bf16", TORCH] == 1.5


def test_the_headlines_take_the_best_of_every_tool() -> None:
    found = {
        (r["subject"], r["runtime"], r["what"]): (r["ours_faster"]["median"], r["other"]["way"], r["other"]["hint"])
        for r in headlines(ROWS, 2)
    }
    assert found == {
        ("lrn", "onnxruntime-cpu", f"FP32 against {TORCH}"): (1.35, TORCH, None),
        ("lrn", "onnxruntime-cpu", f"FP32 against {LRN_NODE}"): (1.7, LRN_NODE, None),
        ("int8", "onnxruntime-cpu", "against ours in FP32"): (2.0, "ours", None),
        ("int8", "onnxruntime-cpu", "against quantize_static"): (2.0, MINMAX[2].label, None),
        ("lrn", "openvino", f"FP32 against {TORCH}"): (2.0, TORCH, None),
        ("int8", "openvino", "against ours in FP32"): (2.667, "ours", None),
        ("int8", "openvino", "against ours in BF16"): (2.0, "ours", "bf16"),
        ("int8", "openvino", "against nncf"): (1.5, "nncf, LRN node", "bf16"),
    }


def test_accuracy_of_a_calibration_is_that_of_its_int8_result() -> None:
    found = accuracy_in(ROWS, "nncf, LRN node")
    assert found is not None and found["runtime"] == "openvino" and found["drop"] == 0.001
    assert accuracy_in(ROWS, "modelopt max, LRN node") is None


def document() -> dict[str, Any]:
    spread = {
        "median_s": 7.2,
        "min_s": 7.0,
        "max_s": 7.9,
        "samples_s": [7.0, 7.2, 7.9],
        "peak_memory_bytes": 144 * 10**7,
    }
    rows = with_ratios(ROWS, 2)
    cost = {"images": 512, "turns": 3, "whole": spread}
    check = {"tool": "benchmark_app", "runtime": "openvino", "precision": "int8", "hint": None, "batch": 1}
    return {
        "schema": SCHEMA,
        "what": "the shipped model",
        "environment": {"cpu": "CPU", "cpus": 2, "cpu_flags": ["avx2"], "packages": {"onnxruntime-gpu": "1.31.1"}},
        "environments": {"nncf": {"from": "made", "packages": {"nncf": "3.4.0"}}},
        "images": {"calibration": 512, "evaluation": 2000, "data": "shipped"},
        "settings": settings(2, 24, 224),
        "left_out": [{"peer": "modelopt", "reason": "no space for an environment\n  got: 3.0 GB free"}],
        "ratios": headlines(rows, 2),
        "calibration": [
            {"way": "ours", "calibration": spread, **cost, "accuracy": accuracy_in(rows, "ours")},
            {"way": "nncf, LRN node", "calibration": None, **cost, "accuracy": None},
        ],
        "cross_check": [
            {**check, "median_ms": 3.1, "ours_ms": 3.0, "ratio": 1.033},
            {**check, "tool": "plain loop", "runtime": "onnxruntime-cpu", "reason": "it failed\n  got: 1"},
        ],
        "rows": rows,
    }


def test_the_page_has_everything_that_was_found() -> None:
    page = markdown(document())
    for words in (
        "| LRN | ONNX Runtime | 1 | FP32 against torch's export | 1.35x (1.35 to 1.35) | torch's export |",
        "| INT8 | OpenVINO | 1 | against nncf | 1.50x (1.50 to 1.50) | nncf, LRN node, bf16 hint |",
        "| OpenVINO, bf16 hint | nncf, LRN node | 3.0 | 1.50x (1.50 to 1.50) | +0.10 | 0.62 | 99.80 % | 500 |",
        "| ours | 512 | 7.2 (7.0 to 7.9) | 1.44 | 7.2 (7.0 to 7.9) | 1.44 | +0.10 | 99.80 % |",
        "| nncf, LRN node | 512 |  |  | 7.2 (7.0 to 7.9) | 1.44 |  |  |",
        "- modelopt: no space for an environment got: 3.0 GB free",
        "`onnxruntime_perf_test -e cpu -I -S 0 -f batch:BATCH -m times -r 24 -x 2 -Z GRAPH`",
        "| benchmark_app | OpenVINO | INT8 | 1 | 3.10 | 3.00 | 1.03 |",
        "| plain loop | ONNX Runtime | INT8 | 1 | it failed got: 1 |  |  |",
        "accuracy on 2,000 images; onnxruntime 1.31.1, nncf 3.4.0.",
    ):
        assert words in page, words
    tables = [line for line in page.splitlines() if line.startswith("| ")]
    assert len(tables) == 2 * 5 + 8 + len(ROWS) + 2 + 2


def test_the_summary_has_a_line_a_ratio_and_what_is_missing() -> None:
    lines = summary(document())
    assert len(lines) == 9
    assert lines[0].startswith("LRN   ONNX Runtime batch  1: ours is 1.35x (1.35 to 1.35) as fast")
    assert lines[-1].startswith("left out: modelopt: no space")


def test_a_document_is_rendered_without_measuring(tmp_path: Path) -> None:
    path = tmp_path / "peers.json"
    path.write_text(json.dumps(document()))
    ran = CliRunner().invoke(peers.main, ["--render", "--json", str(path)])
    assert ran.exit_code == 0 and "LRN   ONNX Runtime" in ran.stderr
    assert (tmp_path / "peers.md").read_text() == markdown(document())


def test_what_was_measured_is_forgotten_when_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Run, "document", lambda run: run.work.measured("rows", 1, document))
    measured = tmp_path / "work" / "measured" / "rows.json"
    command = ["--workdir", str(tmp_path / "work"), "--without", "nncf", "--json"]
    ran = CliRunner().invoke(peers.main, [*command, str(tmp_path / "nowhere" / "\0")])
    assert ran.exit_code != 0 and measured.is_file(), "a document that could not be written is not lost"
    ran = CliRunner().invoke(peers.main, [*command, str(tmp_path / "peers.json")])
    assert ran.exit_code == 0 and not measured.exists()
    assert json.loads((tmp_path / "peers.json").read_text()) == document()
    assert (tmp_path / "peers.md").read_text() == markdown(document())


@pytest.mark.parametrize(("text", "problem"), [(None, "there is no document"), ('{"schema": 1}', "got: schema 1")])
def test_what_cannot_be_rendered_is_refused(tmp_path: Path, text: str | None, problem: str) -> None:
    path = tmp_path / "peers.json"
    if text is not None:
        path.write_text(text)
    ran = CliRunner().invoke(peers.main, ["--render", "--json", str(path)])
    assert ran.exit_code == 2 and problem in ran.stderr and not (tmp_path / "peers.md").exists()


def test_openvinos_tool_knows_every_option_that_we_name(monkeypatch: pytest.MonkeyPatch) -> None:
    parameters = pytest.importorskip("openvino.tools.benchmark.parameters")
    monkeypatch.setattr(sys, "argv", settings(2, 24, 224)["openvino"]["benchmark_app"].split())
    told = parameters.parse_args().parse_args()
    assert (told.perf_hint, told.number_streams, told.number_threads) == ("none", "1", 2)
    assert (told.api_type, told.infer_precision, told.data_shape) == ("sync", "f32", "[BATCH,3,224,224]")


def test_a_jobs_file_says_what_it_is() -> None:
    assert Job(tool="nncf", graph=TORCH).file == "nncf-torch.xml"
    assert MINMAX[0].file == "quantize_static-MinMax-u8s8-lrn.onnx"
