"""`serve --ray-address`: on a cluster that is there, whose other work it leaves alone."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("ray")

import ray

from tests.serving.process import served

END_SERVE = "import sys, ray; ray.init(address=sys.argv[1]); from ray import serve; serve.shutdown()"


@pytest.mark.usefixtures("cluster")
def test_one_command_serves_on_a_cluster_and_ends_what_is_its_own(small_checkpoint: Path, tmp_path: Path) -> None:
    address = ray.get_runtime_context().gcs_address
    words = ("--model", small_checkpoint, "--workdir", tmp_path, "--ray-address", address, "--threads", 1)
    try:
        with served(tmp_path, *words) as first:
            first.until_ready()
            assert first.ask("/v2/health/ready")[0] == 200
            assert "does not answer" not in first.errors.read_text()
            # A second one would replace the first one's model: it is refused, and takes nothing with it.
            with served(tmp_path, *words) as second:
                assert second.ended() == 1
                assert "serves for another alexnet-deploy already" in second.errors.read_text()
            assert first.ask("/v2/health/ready")[0] == 200
            first.end(signal.SIGTERM)
            assert first.ended() == 143
        # Serve goes on where it listens, which is not where the next one is told to.
        with served(tmp_path, *words, "--threads", 64) as third:
            third.until_ready()
            assert "does not answer from here" in third.errors.read_text()
            # More threads than a node has would be waited for for ever.
            assert "threads and not 64: no node has room for more" in third.errors.read_text()
            third.end(signal.SIGINT)
            assert third.ended() == 130
    finally:
        # In a process of its own: importing Serve warns of its own code.
        subprocess.run([sys.executable, "-c", END_SERVE, address], check=True, capture_output=True)
    assert ray.get(ray.put("still here")) == "still here"
