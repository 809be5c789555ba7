"""Triton's own schema and client, asked in the environment that has them."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

PYTHON = Path(__file__).parents[2] / ".venv-triton" / "bin" / "python"

# Reads a configuration as the server does: a field or an enum that the schema does not have is an error.
_READ = """
import sys
from google.protobuf import json_format, text_format
from tritonclient.grpc import model_config_pb2
config = text_format.Parse(sys.stdin.read(), model_config_pb2.ModelConfig())
print(json_format.MessageToJson(config, preserving_proto_field_name=True))
"""
# Builds a request from what a client is told, and prints the request's own header.
_REQUEST = """
import json, sys
import numpy
from tritonclient.http import InferInput, InferRequestedOutput, InferenceServerClient
from tritonclient.utils import triton_to_np_dtype
told = json.load(sys.stdin)
tensor = InferInput(told["input"]["name"], told["shape"], told["datatype"])
tensor.set_data_from_numpy(numpy.zeros(told["shape"], triton_to_np_dtype(told["datatype"])))
body, size = InferenceServerClient.generate_request_body(
    [tensor], outputs=[InferRequestedOutput(told["output"]["name"], class_count=5)]
)
print(json.dumps({"header": json.loads(body[:size]), "bytes": len(body) - size}))
"""


def _asked(program: str, text: str) -> Any:
    if not PYTHON.exists():
        pytest.skip("Triton's client is not here: make setup makes .venv-triton")
    done = subprocess.run([str(PYTHON), "-c", program], input=text, capture_output=True, text=True)
    if done.returncode != 0:
        raise ValueError(done.stderr.strip().splitlines()[-1])
    return json.loads(done.stdout)


def read_config(text: str) -> dict[str, Any]:
    """The configuration as Triton's schema reads it.

    Raises:
        ValueError: The schema does not have something that is in it; the message is protobuf's.
    """
    found: dict[str, Any] = _asked(_READ, text)
    return found


def request_of(contract: dict[str, Any], batch: int) -> dict[str, Any]:
    """The header of a request for zeros, and the bytes behind it, from what `preprocessing.json` says."""
    port = contract["input"]
    told = {**contract, "shape": [batch, *port["shape"][1:]], "datatype": port["data_type"].removeprefix("TYPE_")}
    found: dict[str, Any] = _asked(_REQUEST, json.dumps(told))
    return found
