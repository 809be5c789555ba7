"""What is written in protobuf's text format is read back as it was, by us and by protobuf."""

from __future__ import annotations

import pytest
from google.protobuf import struct_pb2, text_format  # type: ignore[import-untyped]
from hypothesis import given
from hypothesis import strategies as st

from alexnet_deploy.errors import ArtifactError
from alexnet_deploy.packaging.pbtxt import Message, Symbol, comment_lines, message_from_text, text_from_message

NAMES = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True)
# A surrogate alone is no character of UTF-8.
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
SYMBOLS = NAMES.filter(lambda name: name not in ("true", "false")).map(Symbol)
SCALARS = TEXTS | st.integers(-(2**63), 2**63) | st.booleans() | SYMBOLS
MESSAGES = st.recursive(
    st.lists(st.tuples(NAMES, SCALARS), max_size=4),
    lambda inner: st.lists(st.tuples(NAMES, SCALARS | inner), max_size=4),
    max_leaves=12,
)


@given(MESSAGES)
def test_a_message_is_read_back_as_it_was(message: Message) -> None:
    found = message_from_text(text_from_message(message))
    assert found == message
    assert repr(found) == repr(message), "a text is no symbol, and a number no truth"


@given(TEXTS)
def test_protobuf_reads_a_text_as_it_was(text: str) -> None:
    written = text_from_message([("string_value", text)])
    assert text_format.Parse(written, struct_pb2.Value()).string_value == text
    assert written.isascii() and written.count("\n") == 1


def test_a_message_stands_in_braces_and_a_symbol_without_quotes() -> None:
    message: Message = [("a", 1), ("a", -2), ("b", [("kind", Symbol("KIND_CPU")), ("name", 'x"\n'), ("on", True)])]
    assert text_from_message(message) == 'a: 1\na: -2\nb {\n  kind: KIND_CPU\n  name: "x\\"\\n"\n  on: true\n}\n'


def test_a_digit_behind_an_escape_stays_a_digit() -> None:
    message: Message = [("a", "\x0177")]
    assert text_from_message(message) == 'a: "\\00177"\n'
    assert message_from_text(text_from_message(message)) == message


def test_comments_are_skipped_and_stay_comments() -> None:
    lines = comment_lines("first\nsecond: { }")
    assert lines == ["# first", "# second: { }"]
    assert message_from_text("\n".join([*lines, "a: 1", "# end"])) == [("a", 1)]


@pytest.mark.parametrize(
    "text", ["a", "a:", "a: }", "a { b: 1", "a: 1 }", "1: 2", 'a: "x', "a: 1.5", "a = 1", 'a: "\\q"']
)
def test_what_is_no_message_is_refused(text: str) -> None:
    with pytest.raises(ArtifactError, match="text form"):
        message_from_text(text)
