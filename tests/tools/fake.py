"""Distributions on disk as an installer leaves them, a few lines each."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path


def install(
    folder: Path,
    name: str,
    version: str = "1.0",
    *,
    files: dict[str, str] | None = None,
    requires: tuple[str, ...] = (),
    headers: tuple[str, ...] = (),
    origin: str | None = None,
) -> None:
    """Writes a distribution with its METADATA and a RECORD that fits."""
    info = f"{name}-{version}.dist-info"
    lines = ["Metadata-Version: 2.4", f"Name: {name}", f"Version: {version}", *headers]
    lines += [f"Requires-Dist: {requirement}" for requirement in requires]
    contents = {f"{info}/METADATA": "\n".join([*lines, ""]), **(files or {f"{name}/__init__.py": "A = 1\n"})}
    if origin:
        contents[f"{info}/direct_url.json"] = origin
    record = [f"{info}/RECORD,,"]
    for path, text in contents.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode().rstrip("=")
        record.append(f"{path},sha256={digest},{len(text.encode())}")
    (folder / info / "RECORD").write_text("\n".join([*record, ""]))
