"""A folder of artifacts, each made once: the same inputs give the same artifact, and a second run reuses it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alexnet_deploy import __version__
from alexnet_deploy.artifacts import matching_passport, passport_path, write_artifact
from alexnet_deploy.errors import InputError
from alexnet_deploy.files import require_writable, sha256_of
from alexnet_deploy.locks import locked
from alexnet_deploy.progress import SILENT, Voice
from alexnet_deploy.specs import fingerprint


@dataclass(frozen=True, kw_only=True)
class Made:
    """What a stage gives the workspace to write."""

    data: bytes
    facts: dict[str, Any] = field(default_factory=dict)
    tools: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """A file in the workspace, and whether it was there already."""

    path: Path
    reused: bool
    facts: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Workspace:
    """Where artifacts are kept.

    Attributes:
        folder: Made when the first artifact is written.
        voice: Hears what is made and what is reused.
    """

    folder: Path
    voice: Voice = SILENT
    _announced: set[Path] = field(default_factory=set, init=False, repr=False, compare=False)

    def make(
        self, path: Path, kind: str, request: dict[str, Any], parents: Sequence[Path], stage: Callable[[], Made]
    ) -> Artifact:
        """Makes an artifact, or reuses it where it fits the request.

        Args:
            path: Where it goes.
            kind: As the passport calls it.
            request: Everything that the result depends on besides the parents' content.
            parents: Files that it is made from.
            stage: Makes it.

        Raises:
            ArtifactError: The folder cannot be written.
        """
        asked = fingerprint([kind, request, [sha256_of(parent) for parent in parents], __version__])
        found = self._found(path, asked)
        if found is not None:
            return found
        self._check_writable(path, parents)
        with locked(path, self.voice):
            # Another command may have made it in the meantime.
            return self._found(path, asked) or self._made(path, kind, asked, parents, stage)

    def _found(self, path: Path, asked: str) -> Artifact | None:
        passport = matching_passport(path)
        if passport is None or passport.request != asked:
            return None
        self._announce(path, f"reusing {path}")
        return Artifact(path=path, reused=True, facts=passport.facts)

    def _made(self, path: Path, kind: str, asked: str, parents: Sequence[Path], stage: Callable[[], Made]) -> Artifact:
        made = stage()
        write_artifact(path, made.data, kind=kind, parents=parents, request=asked, facts=made.facts, tools=made.tools)
        self._announce(path, f"wrote {path} ({_size(len(made.data))})")
        return Artifact(path=path, reused=False, facts=made.facts)

    def _announce(self, path: Path, text: str) -> None:
        """Once a run: later stages ask for the same artifact again."""
        if path not in self._announced:
            self._announced.add(path)
            self.voice.say(text)

    def _check_writable(self, path: Path, parents: Sequence[Path]) -> None:
        """Before the work, not after it."""
        if any(path.resolve() == parent.resolve() for parent in parents):
            raise InputError(
                f"{path} would be written over its own source", remedy="name another file with --output or --workdir"
            )
        if path.exists() and not passport_path(path).exists():
            raise InputError(
                f"{path} is there, and this tool did not make it",
                expected="a file with its passport beside it, or no file",
                remedy="move it away, or name another file with --output or --workdir",
            )
        require_writable(path.parent)


def _size(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:.1f} MB" if size_bytes >= 100_000 else f"{size_bytes / 1e3:.1f} kB"
