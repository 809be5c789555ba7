"""Every error that this package raises on purpose, and the exit code each one ends a command with.

AlexnetDeployError                 exit 1
├── InputError                     exit 2   what the user named is missing or is not what it should be
│   └── UncalibratedError          exit 2   nobody said on which images (a skipped row in a bench)
├── MissingDependencyError         exit 1   an optional package is not installed
├── DataError                      exit 1   a data source cannot be used
│   └── ImageError                 exit 1   one image is damaged
├── WeightsError                   exit 1   a checkpoint does not fit the network
├── TrainingError                  exit 1   training cannot go on
│   ├── DivergedError              exit 1   the loss or a weight is not finite any more
│   └── RankError                  that of the process that failed: another process of the run could not go on
│       └── RankLostError          exit 1   another process of the run is gone, or does not answer
├── GraphError                     exit 1   an ONNX graph is not what a stage requires
├── ArtifactError                  exit 1   an artifact cannot be written, or its passport does not match it
├── EngineError                    exit 1   an engine cannot be built or read
├── RuntimeUnavailableError        exit 1   a runtime cannot run on this machine (a skipped row in a bench)
├── SessionError                   exit 1   a runtime that should run did not
├── ServingError                   exit 1   the server cannot start or go on
│   └── RequestError               exit 1   one request is refused; carries the HTTP status it is answered with
└── GateError                      exit 3   something was measured and found wanting
    ├── ParityError                exit 3   an export differs from its source
    ├── PrecisionProofError        exit 3   a layer did not get the precision that was asked for
    └── AccuracyError              exit 3   a budget of accuracy does not hold
"""

from __future__ import annotations

from alexnet_deploy.printable import printable_lines

# Longer than any message of ours that lists layers or files.
_LONGEST_QUOTE = 1000
# One that was interrupted ends with 128 and the signal, as shells count it.
EXIT_DONE, EXIT_ERROR, EXIT_USAGE, EXIT_GATE = 0, 1, 2, 3


class AlexnetDeployError(Exception):
    """A deployment error that a person can act on.

    Args:
        problem: One sentence saying what is wrong.
        got: What was found.
        expected: What would have been right.
        remedy: What to do about it.
    """

    exit_code = EXIT_ERROR

    def __init__(self, problem: str, *, got: object = None, expected: object = None, remedy: str | None = None) -> None:
        self.problem, self.got, self.expected, self.remedy = problem, got, expected, remedy
        super().__init__(problem)

    def __str__(self) -> str:
        parts = [("got", self.got), ("expected", self.expected), ("remedy", self.remedy)]
        found = [(label, _quoted(value)) for label, value in parts if value is not None]
        # A text from a file must not look like the next part.
        lines = [_quoted(self.problem), *(f"  {label}: {value}".replace("\n", "\n    ") for label, value in found)]
        return printable_lines("\n".join(lines))


def _quoted(value: object) -> str:
    """What a message quotes of a damaged file has an end."""
    text = str(value)
    return text if len(text) <= _LONGEST_QUOTE else f"{text[:_LONGEST_QUOTE]} …"


class InputError(AlexnetDeployError):
    """What the user named is missing, unreadable, or not what it should be."""

    exit_code = EXIT_USAGE


class UncalibratedError(InputError):
    """No calibration table is there, and the shipped images are not the model's own."""


class MissingDependencyError(AlexnetDeployError):
    """An optional package that a feature needs is not installed."""


class DataError(AlexnetDeployError):
    """A data source cannot be used."""


class ImageError(DataError):
    """One image is damaged; the message names its file."""


class WeightsError(AlexnetDeployError):
    """A checkpoint does not fit the network it is read into."""


class TrainingError(AlexnetDeployError):
    """Training cannot start or go on."""


class DivergedError(TrainingError):
    """The loss or a weight is not finite any more.

    Attributes:
        last_good: Step of the weights that the network was put back to; None where none were kept.
    """

    last_good: int | None = None


class RankError(TrainingError):
    """Another process of the run could not go on; every process ends with that one's exit code."""

    def __init__(
        self,
        problem: str,
        *,
        got: object = None,
        expected: object = None,
        remedy: str | None = None,
        exit_code: int = EXIT_ERROR,
    ) -> None:
        super().__init__(problem, got=got, expected=expected, remedy=remedy)
        self.exit_code = exit_code


class RankLostError(RankError):
    """Another process of the run is gone, or does not answer."""


class GraphError(AlexnetDeployError):
    """An ONNX graph is not what a stage requires."""


class ArtifactError(AlexnetDeployError):
    """An artifact cannot be written, or its passport does not match it."""


class EngineError(AlexnetDeployError):
    """An engine cannot be built or read."""


class RuntimeUnavailableError(AlexnetDeployError):
    """A runtime cannot run on this machine; a bench turns this into a skipped row."""


class SessionError(AlexnetDeployError):
    """A runtime that should run did not, or would have run somewhere else than asked."""


class ServingError(AlexnetDeployError):
    """The server cannot start or go on."""


class RequestError(ServingError):
    """One request is refused; the server goes on.

    Attributes:
        status: The HTTP status that the client gets.
        retry_after_s: When it may try again; None where that would not help.
    """

    def __init__(
        self,
        status: int,
        problem: str,
        *,
        got: object = None,
        expected: object = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(problem, got=got, expected=expected)
        self.status, self.retry_after_s = status, retry_after_s

    @property
    def line(self) -> str:
        """The message in one line, as an answer carries it."""
        return "; ".join(line.strip() for line in str(self).splitlines())


class GateError(AlexnetDeployError):
    """Something was measured and found wanting."""

    exit_code = EXIT_GATE


class ParityError(GateError):
    """An exported graph differs from its source by more than the stated tolerance."""


class PrecisionProofError(GateError):
    """A layer did not get the precision that was asked for."""


class AccuracyError(GateError):
    """A budget of accuracy does not hold."""
