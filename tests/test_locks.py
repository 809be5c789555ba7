"""One command makes a file while the others wait, and a lock goes with the process that held it."""

from __future__ import annotations

import errno
import fcntl
import io
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from alexnet_deploy.errors import ArtifactError
from alexnet_deploy.files import write_bytes
from alexnet_deploy.locks import lock_path, locked
from alexnet_deploy.progress import Voice

HOLD = """
import sys
from pathlib import Path
from alexnet_deploy.locks import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def holder(path: Path) -> subprocess.Popen[str]:
    """Another process that holds the lock until its standard input is closed."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


class Heard(io.StringIO):
    """Says when it is written to."""

    def __init__(self) -> None:
        super().__init__()
        self.spoken = threading.Event()

    def write(self, text: str) -> int:
        self.spoken.set()
        return super().write(text)


def waiting(path: Path) -> tuple[threading.Thread, Heard]:
    """A thread that waits for the lock, once it has said so."""
    heard = Heard()

    def wait() -> None:
        with locked(path, Voice(stream=heard)):
            heard.write("got it")

    thread = threading.Thread(target=wait)
    thread.start()
    assert heard.spoken.wait(30)
    return thread, heard


def test_a_lock_is_gone_when_it_is_given_back(tmp_path: Path) -> None:
    with locked(tmp_path / "a.onnx"):
        assert [path.name for path in tmp_path.iterdir()] == [".a.onnx.lock"]
    assert not list(tmp_path.iterdir())


def test_the_second_waits_for_the_first_and_says_for_whom(tmp_path: Path) -> None:
    process = holder(tmp_path / "a.onnx")
    thread, heard = waiting(tmp_path / "a.onnx")
    assert f"(process {process.pid} on " in heard.getvalue() and "a.onnx" in heard.getvalue()
    assert "got it" not in heard.getvalue()
    process.communicate("")
    thread.join(30)
    assert heard.getvalue().count("waiting for") == 1 and heard.getvalue().endswith("got it")
    assert not list(tmp_path.iterdir())


def test_a_lock_goes_with_a_process_that_is_killed(tmp_path: Path) -> None:
    process = holder(tmp_path / "a.onnx")
    thread, heard = waiting(tmp_path / "a.onnx")
    process.send_signal(signal.SIGKILL)
    process.communicate()
    thread.join(30)
    assert heard.getvalue().endswith("got it")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [b"", b"{", b'{"pid": 1}', b"\xff", b'{"since": "never", "pid": 1}'])
def test_what_a_killed_process_left_locks_nobody_out(content: bytes, tmp_path: Path) -> None:
    lock_path(tmp_path / "a").write_bytes(content)
    stream = io.StringIO()
    with locked(tmp_path / "a", Voice(stream=stream)):
        pass
    assert stream.getvalue() == "" and not list(tmp_path.iterdir())


def test_an_owner_that_cannot_be_read_is_another_command(tmp_path: Path) -> None:
    lock = lock_path(tmp_path / "a")
    handle = os.open(lock, os.O_CREAT | os.O_RDWR)
    fcntl.flock(handle, fcntl.LOCK_EX)
    thread, heard = waiting(tmp_path / "a")
    assert "waiting for another command, which is making" in heard.getvalue()
    os.close(handle)
    thread.join(30)
    assert heard.getvalue().endswith("got it")


def test_threads_exclude_each_other_too(tmp_path: Path) -> None:
    path, seen = tmp_path / "count", list[int]()
    write_bytes(path, b"0")

    def add() -> None:
        for _ in range(20):
            with locked(path):
                number = int(path.read_bytes())
                seen.append(number)
                write_bytes(path, str(number + 1).encode())

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_bytes() == b"80" and sorted(seen) == list(range(80))
    assert [each.name for each in tmp_path.iterdir()] == ["count"]


def test_locks_of_different_files_do_not_meet(tmp_path: Path) -> None:
    with locked(tmp_path / "a"), locked(tmp_path / "b"):
        assert len(list(tmp_path.iterdir())) == 2


def test_a_file_system_without_locks_is_said_and_used_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_handle: int, _operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    stream = io.StringIO()
    with locked(tmp_path / "a", Voice(stream=stream, quiet=True)):
        write_bytes(tmp_path / "a", b"x")
    assert "without locks" in stream.getvalue()
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_where_nothing_can_be_written_there_is_no_lock(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match="cannot be written"), locked(tmp_path / "file" / "a"):
        pass
