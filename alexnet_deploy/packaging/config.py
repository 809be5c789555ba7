"""A model's configuration as Triton Inference Server has it (`ModelConfig` of its `model_config.proto`).

Only the fields that a network of images with one input and one output needs. What is refused here is what the server
itself refuses when it loads a model, so that it is said where it can be mended.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from alexnet_deploy.errors import ArtifactError, InputError
from alexnet_deploy.packaging.pbtxt import Message, Symbol, Value, comment_lines, message_from_text, text_from_message
from alexnet_deploy.printable import printable

# A folder's name, and part of the addresses that clients ask.
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")


@dataclass(frozen=True, kw_only=True)
class TensorConfig:
    """An input or output.

    Attributes:
        data_type: As the schema calls it, `TYPE_FP32`.
        dims: Without the batch, where the server batches; -1 takes any size.
        labels: Of an output: the file of its labels, in the model's folder.
    """

    name: str
    data_type: str
    dims: tuple[int, ...]
    labels: str | None = None

    def fields(self) -> Message:
        """As the schema has them."""
        found: Message = [("name", self.name), ("data_type", Symbol(self.data_type))]
        found += [("dims", dim) for dim in self.dims]
        return found if self.labels is None else [*found, ("label_filename", self.labels)]


@dataclass(frozen=True, kw_only=True)
class Instances:
    """How often the model is loaded, and where.

    Attributes:
        kind: `KIND_CPU` or `KIND_GPU`.
        profiles: Of a TensorRT engine: its optimisation profiles, by number.
    """

    kind: str
    count: int = 1
    profiles: tuple[int, ...] = ()

    def fields(self) -> Message:
        """As the schema has them."""
        found: Message = [("count", self.count), ("kind", Symbol(self.kind))]
        return [*found, *(("profile", str(profile)) for profile in self.profiles)]


@dataclass(frozen=True, kw_only=True)
class DynamicBatching:
    """How requests that wait become one batch.

    Attributes:
        preferred: A batch that is sent as soon as it is full; None sends the largest that can be made.
        queue_delay_us: The longest that a request waits for others, in microseconds.
    """

    preferred: int | None = None
    queue_delay_us: int = 0

    def fields(self) -> Message:
        """As the schema has them."""
        found: Message = [] if self.preferred is None else [("preferred_batch_size", self.preferred)]
        return [*found, ("max_queue_delay_microseconds", self.queue_delay_us)] if self.queue_delay_us else found


@dataclass(frozen=True, kw_only=True)
class WarmUp:
    """A request of zeros before the first real one; random bytes would be NaNs and denormals as often as numbers.

    Attributes:
        batch: How many such requests are run as one batch.
        dims: Of each of them; without -1.
    """

    batch: int
    dims: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A model's configuration.

    Attributes:
        name: Of its folder.
        platform: Where the backend has one.
        filename: Of the artifact in the version's folder.
        max_batch: The largest batch; 0 where the server does not batch, and `dims` are whole shapes.
        cuda_options: Of ONNX Runtime's CUDA provider.
        parameters: Of the backend, and what we say of the model to clients.
        remarks: Sentences that go into the file as comments.
    """

    name: str
    backend: str
    platform: str | None = None
    filename: str
    max_batch: int
    input: TensorConfig
    output: TensorConfig
    instances: Instances
    batching: DynamicBatching | None = None
    warm_ups: tuple[WarmUp, ...] = ()
    cuda_options: dict[str, str] = field(default_factory=dict)
    parameters: dict[str, str] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require_model_name(self.name)
        for tensor in (self.input, self.output):
            if not tensor.dims or any(dim < 1 and dim != -1 for dim in tensor.dims):
                raise _unfit(f"the shape of {tensor.name}", tensor.dims, "sizes from 1 on, or -1")
        if self.max_batch < 0 or self.instances.count < 1:
            raise _unfit("a number", f"max_batch_size {self.max_batch}, {self.instances.count} instances", "no less")
        if self.batching is not None:
            preferred, delay = self.batching.preferred, self.batching.queue_delay_us
            if self.max_batch < 1 or (preferred is not None and not 1 <= preferred <= self.max_batch) or delay < 0:
                raise _unfit(
                    "the batching", f"{self.batching} of at most {self.max_batch}", "batches up to the largest"
                )
        for warm_up in self.warm_ups:
            if not 1 <= warm_up.batch <= max(self.max_batch, 1) or any(dim < 1 for dim in warm_up.dims):
                raise _unfit("a warm-up", warm_up, "a batch and a shape that the model takes")
        if self.instances.profiles and self.backend != "tensorrt":
            raise _unfit("an optimisation profile", f"of the backend {self.backend}", "one of tensorrt")

    def message(self) -> Message:
        """As the schema has it."""
        found: Message = [("name", self.name), ("backend", self.backend)]
        if self.platform is not None:
            found.append(("platform", self.platform))
        found += [("default_model_filename", self.filename), ("max_batch_size", self.max_batch)]
        found += [("input", self.input.fields()), ("output", self.output.fields())]
        found.append(("instance_group", self.instances.fields()))
        if self.batching is not None:
            found.append(("dynamic_batching", self.batching.fields()))
        if self.cuda_options:
            accelerator: Message = [("name", "cuda"), *_map("parameters", self.cuda_options)]
            accelerators: Message = [("gpu_execution_accelerator", accelerator)]
            found.append(("optimization", [("execution_accelerators", accelerators)]))
        found += [("model_warmup", self._warm_up(warm_up)) for warm_up in self.warm_ups]
        for key, text in self.parameters.items():
            found.append(("parameters", [("key", key), ("value", [("string_value", text)])]))
        return found

    def _warm_up(self, warm_up: WarmUp) -> Message:
        shape = "x".join(map(str, warm_up.dims))
        data: Message = [("data_type", Symbol(self.input.data_type)), *(("dims", dim) for dim in warm_up.dims)]
        inputs: Message = [("key", self.input.name), ("value", [*data, ("zero_data", True)])]
        return [("name", f"{warm_up.batch} of {shape}"), ("batch_size", warm_up.batch), ("inputs", inputs)]


def config_text(config: ModelConfig) -> str:
    """The file, which was read back and says the same.

    Raises:
        ArtifactError: It would say something else; this is a defect of the writer.
    """
    message = config.message()
    comments = [line for remark in config.remarks for line in comment_lines(printable(remark))]
    text = "".join(f"{line}\n" for line in comments) + text_from_message(message)
    if message_from_text(text) != message:
        raise ArtifactError("the configuration would not be read as it was meant", got=text, expected=message)
    return text


def require_model_name(name: str) -> None:
    """A name that is a folder's everywhere, and part of an address.

    Raises:
        InputError: It is not.
    """
    if _NAME.fullmatch(name) is None:
        raise InputError(
            "that is no name for a model",
            got=repr(name),
            expected="up to 100 letters, digits, _, - and dots, not beginning with - or a dot",
            remedy="name another with --name",
        )


def _map(name: str, values: dict[str, str]) -> Message:
    entries: list[tuple[str, Value]] = []
    for key, value in values.items():
        entries.append((name, [("key", key), ("value", value)]))
    return entries


def _unfit(what: str, got: object, expected: str) -> ArtifactError:
    return ArtifactError(f"{what} is none that Triton takes", got=got, expected=expected)
