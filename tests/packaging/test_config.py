"""A configuration says what Triton's schema has, and nothing that the server refuses."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from alexnet_deploy.errors import ArtifactError, InputError
from alexnet_deploy.packaging.config import (
    DynamicBatching,
    Instances,
    ModelConfig,
    TensorConfig,
    WarmUp,
    config_text,
    require_model_name,
)
from tests.packaging.client import read_config

IMAGE = (3, 224, 224)
CONFIG = ModelConfig(
    name="alexnet",
    backend="onnxruntime",
    platform="onnxruntime_onnx",
    filename="model.onnx",
    max_batch=16,
    input=TensorConfig(name="input", data_type="TYPE_FP32", dims=IMAGE),
    output=TensorConfig(name="logits", data_type="TYPE_FP32", dims=(10,), labels="labels.txt"),
    instances=Instances(kind="KIND_CPU", count=2),
    batching=DynamicBatching(preferred=8, queue_delay_us=1234),
    warm_ups=(WarmUp(batch=1, dims=IMAGE), WarmUp(batch=8, dims=IMAGE)),
    parameters={"intra_op_thread_count": "2", "alexnet_deploy.model": 'a "quoted"\nname\u202e'},
    remarks=("why 8: it is\nas good as 16", "name: {"),
)


def test_tritons_schema_reads_every_field() -> None:
    data = {"data_type": "TYPE_FP32", "dims": ["3", "224", "224"], "zero_data": True}
    assert read_config(config_text(CONFIG)) == {
        "name": "alexnet",
        "backend": "onnxruntime",
        "platform": "onnxruntime_onnx",
        "default_model_filename": "model.onnx",
        "max_batch_size": 16,
        "input": [{"name": "input", "data_type": "TYPE_FP32", "dims": ["3", "224", "224"]}],
        "output": [{"name": "logits", "data_type": "TYPE_FP32", "dims": ["10"], "label_filename": "labels.txt"}],
        "instance_group": [{"count": 2, "kind": "KIND_CPU"}],
        "dynamic_batching": {"preferred_batch_size": [8], "max_queue_delay_microseconds": "1234"},
        "model_warmup": [
            {"name": "1 of 3x224x224", "batch_size": 1, "inputs": {"input": data}},
            {"name": "8 of 3x224x224", "batch_size": 8, "inputs": {"input": data}},
        ],
        "parameters": {
            "intra_op_thread_count": {"string_value": "2"},
            "alexnet_deploy.model": {"string_value": 'a "quoted"\nname\u202e'},
        },
    }


def test_tritons_schema_reads_an_engine_with_profiles() -> None:
    instances = Instances(kind="KIND_GPU", profiles=(0, 1))
    found = dataclasses.replace(CONFIG, backend="tensorrt", platform="tensorrt_plan", instances=instances)
    read = read_config(config_text(found))
    assert read["instance_group"] == [{"count": 1, "kind": "KIND_GPU", "profile": ["0", "1"]}]


def test_tritons_schema_reads_what_the_cuda_provider_is_told() -> None:
    read = read_config(config_text(dataclasses.replace(CONFIG, cuda_options={"use_tf32": "0"})))
    assert read["optimization"] == {
        "execution_accelerators": {"gpu_execution_accelerator": [{"name": "cuda", "parameters": {"use_tf32": "0"}}]}
    }


def test_a_server_that_does_not_batch_is_told_whole_shapes() -> None:
    image = TensorConfig(name="input", data_type="TYPE_FP16", dims=(-1, *IMAGE))
    warm_up = WarmUp(batch=1, dims=(1, *IMAGE))
    found = dataclasses.replace(CONFIG, max_batch=0, input=image, batching=None, warm_ups=(warm_up,), platform=None)
    read = read_config(config_text(found))
    assert read["input"][0]["dims"] == ["-1", "3", "224", "224"]
    assert {"max_batch_size", "dynamic_batching", "platform"} & set(read) == set()
    assert read["model_warmup"][0]["inputs"]["input"]["data_type"] == "TYPE_FP16"


def test_the_schema_does_refuse_what_it_does_not_have() -> None:
    """Otherwise the tests above would hold of anything."""
    with pytest.raises(ValueError, match="max_batch"):
        read_config(config_text(CONFIG).replace("max_batch_size", "max_batch"))
    with pytest.raises(ValueError, match="KIND_TPU"):
        read_config(config_text(CONFIG).replace("KIND_CPU", "KIND_TPU"))


def test_remarks_are_comments_whatever_they_hold() -> None:
    lines = config_text(CONFIG).splitlines()
    assert lines[:2] == ["# why 8: it is\\nas good as 16", "# name: {"]
    assert lines[2] == 'name: "alexnet"'


BAD: dict[str, dict[str, Any]] = {
    "a size of nothing": {"output": TensorConfig(name="logits", data_type="TYPE_FP32", dims=(0,))},
    "no shape": {"input": TensorConfig(name="input", data_type="TYPE_FP32", dims=())},
    "no instance": {"instances": Instances(kind="KIND_CPU", count=0)},
    "a negative batch": {"max_batch": -1},
    "a preferred batch beyond the largest": {"max_batch": 4},
    "batching where the server does not batch": {"max_batch": 0, "warm_ups": ()},
    "a negative delay": {"batching": DynamicBatching(queue_delay_us=-1)},
    "a warm-up beyond the largest batch": {"warm_ups": (WarmUp(batch=17, dims=IMAGE),)},
    "a warm-up of any size": {"warm_ups": (WarmUp(batch=1, dims=(-1, *IMAGE)),)},
    "a profile of no engine": {"instances": Instances(kind="KIND_GPU", profiles=(0,))},
}


@pytest.mark.parametrize("change", BAD.values(), ids=BAD)
def test_what_the_server_would_refuse_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ArtifactError, match="none that Triton takes"):
        dataclasses.replace(CONFIG, **change)


@pytest.mark.parametrize("name", ["", ".hidden", "a/b", "..", "-rf", "a b", "ä", "a" * 101, "a\n"])
def test_a_name_that_is_no_folders_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="no name for a model"):
        require_model_name(name)


@pytest.mark.parametrize("name", ["a", "alexnet-int8", "a_b.c-1", "1"])
def test_a_plain_name_is_taken(name: str) -> None:
    require_model_name(name)
