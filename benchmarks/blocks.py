"""Tables in the documents that are written by what measured them: the text between two markers."""

from __future__ import annotations

from pathlib import Path

from alexnet_deploy.files import write_bytes

DOCS = Path(__file__).parents[1] / "docs"


def replace_block(path: Path, name: str, text: str) -> None:
    """Puts `text` between `<!-- name -->` and `<!-- /name -->`; the rest of the page stays.

    Raises:
        ValueError: The page does not have exactly one such pair.
    """
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    page = path.read_text()
    if page.count(begin) != 1 or page.count(end) != 1:
        raise ValueError(f"{path} does not have one block {begin} … {end}")
    before, rest = page.split(begin)
    write_bytes(path, f"{before}{begin}\n{text}\n{end}{rest.split(end)[1]}".encode())
