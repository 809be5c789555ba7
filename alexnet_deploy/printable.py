"""Texts from files as a terminal, a table or a page may show them: what would move the cursor is spelt out.

A name, a label or a message can hold escape sequences, which a terminal obeys, and marks of direction, by which a line
reads as another one. Both are written as Python writes them in a literal. Letters of every language stay.
"""

from __future__ import annotations

# Marks of direction (Unicode Standard Annex 9), which reorder what stands around them.
_DIRECTION = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
# C0, DEL and C1; what ends a line elsewhere; the byte order mark; tags, which nobody sees; bytes that are no UTF-8.
_RANGES = (
    range(0x20), range(0x7F, 0xA0), range(0x2028, 0x202A), range(0xFEFF, 0xFF00), range(0xE0000, 0xE0080),
    range(0xD800, 0xE000),
)  # fmt: skip
_CODES = {*(code for each in _RANGES for code in each), *map(ord, _DIRECTION)}
_SPELT = {code: chr(code).encode("unicode_escape").decode() for code in _CODES}
_SPELT_BUT_LINES = {code: words for code, words in _SPELT.items() if code not in (ord("\n"), ord("\t"))}


def printable(text: object) -> str:
    """A name, a label or a path in one line."""
    return str(text).translate(_SPELT)


def printable_lines(text: object) -> str:
    """A message; its lines and tabs stay."""
    return str(text).translate(_SPELT_BUT_LINES)
