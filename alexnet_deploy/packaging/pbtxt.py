"""Protobuf's text format, as far as a server's configuration needs it: written, and read back.

A message is a list of fields in order, each a name and a value; a field that repeats stands there more than once.
Specification: Protocol Buffers, "Text Format Language". Lists in brackets, floats and extensions are neither written
nor read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TypeAlias

from alexnet_deploy.errors import ArtifactError

_INDENT = "  "
_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
_TOKEN = re.compile(
    rb"\s+|\#[^\n]*|(?P<text>\"(?:[^\"\\\n]|\\.)*\")|(?P<number>-?[0-9]+)|(?P<word>[A-Za-z_][A-Za-z0-9_]*)|(?P<mark>[{}:])"
)
_ESCAPED = re.compile(rb"\\([0-7]{3}|.)")
_PLAIN = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b'"': b'"', b"\\": b"\\"}


class Symbol(str):
    """A value of an enum, which stands without quotes."""

    __slots__ = ()


Value: TypeAlias = "str | int | bool | Message"
Message: TypeAlias = "list[tuple[str, Value]]"


def text_from_message(message: Message) -> str:
    """The message, a field a line."""
    return "".join(f"{line}\n" for line in _lines(message, ""))


def comment_lines(text: str) -> list[str]:
    """A remark as lines that readers of the format skip."""
    return [f"# {line}".rstrip() for line in text.splitlines()]


def message_from_text(text: str) -> Message:
    """What `text_from_message` wrote; comments are left out.

    Raises:
        ArtifactError: It is not of that form.
    """
    tokens = _tokens(text.encode())
    message = _message(tokens, inside=False)
    return message


def _lines(message: Message, indent: str) -> Iterator[str]:
    for name, value in message:
        if isinstance(value, list):
            yield f"{indent}{name} {{"
            yield from _lines(value, indent + _INDENT)
            yield f"{indent}}}"
        else:
            yield f"{indent}{name}: {_scalar(value)}"


def _scalar(value: str | int | bool) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | Symbol):
        return str(value)
    return f'"{"".join(_character(character) for character in value)}"'


def _character(character: str) -> str:
    if character in _ESCAPES:
        return _ESCAPES[character]
    if character.isascii() and character.isprintable():
        return character
    # Bytes in octal have three digits, so that no digit behind one is read as its own.
    return "".join(f"\\{byte:03o}" for byte in character.encode())


def _tokens(data: bytes) -> Iterator[tuple[str, bytes]]:
    at = 0
    while at < len(data):
        found = _TOKEN.match(data, at)
        if found is None:
            raise _garbled(data[at : at + 20])
        at = found.end()
        if found.lastgroup is not None:
            yield found.lastgroup, found[found.lastgroup]
    yield "end", b""


def _message(tokens: Iterator[tuple[str, bytes]], *, inside: bool) -> Message:
    fields: Message = []
    while True:
        kind, token = next(tokens)
        if (kind, token) == (("mark", b"}") if inside else ("end", b"")):
            return fields
        if kind != "word":
            raise _garbled(token)
        mark = next(tokens)
        if mark == ("mark", b"{"):
            value: Value = _message(tokens, inside=True)
        elif mark == ("mark", b":"):
            value = _value(*next(tokens))
        else:
            raise _garbled(mark[1])
        fields.append((token.decode(), value))


def _value(kind: str, token: bytes) -> str | int | bool:
    if kind == "number":
        return int(token)
    if kind == "text":
        return _ESCAPED.sub(_unescaped, token[1:-1]).decode()
    if kind == "word":
        word = token.decode()
        return word == "true" if word in ("true", "false") else Symbol(word)
    raise _garbled(token)


def _unescaped(found: re.Match[bytes]) -> bytes:
    code = found[1]
    if len(code) == 3:
        return bytes([int(code, 8)])
    if code not in _PLAIN:
        raise _garbled(found[0])
    return _PLAIN[code]


def _garbled(token: bytes) -> ArtifactError:
    return ArtifactError(
        "this is not the text form of a configuration",
        got=repr(token.decode(errors="replace")) if token else "its end",
        expected="fields as this tool writes them",
    )
