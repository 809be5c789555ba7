"""Processes below this one: found, waited for, killed."""

from __future__ import annotations

import os
import subprocess
import sys

from alexnet_deploy.serving.processes import alive, descendants, end

# Starts another one, says so, and waits for ever, as that does.
PROGRAM = "import subprocess, sys; p = subprocess.Popen(['sleep', '1000']); print(p.pid, flush=True); p.wait()"


def test_children_of_children_are_found_and_killed() -> None:
    process = subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    grandchild = int(process.stdout.readline())
    process.stdout.close()
    found = descendants(os.getpid())
    assert {process.pid, grandchild} <= {pid for pid, _ in found}
    assert {pid for pid, _ in descendants(process.pid)} == {grandchild}
    ours = {one for one in found if one[0] in (process.pid, grandchild)}
    assert alive(ours) == ours
    # A later process of the same number is another one.
    assert alive({(process.pid, 0)}) == set()
    end({(process.pid, 0)}, 0)
    assert process.poll() is None
    end(ours, 0)
    process.wait()
    assert process.returncode == -9


def test_what_ends_by_itself_is_waited_for() -> None:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(0.2)"])
    ours = {one for one in descendants(os.getpid()) if one[0] == process.pid}
    end(ours, 60)
    assert alive(ours) == set()
    assert process.wait() == 0
