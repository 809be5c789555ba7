"""All that is fuzzed, by name."""

from __future__ import annotations

from tests.fuzz.target import Target
from tests.fuzz.targets.artifacts import ENGINES, INSPECTED, PASSPORTS, PLANS
from tests.fuzz.targets.checkpoints import CHECKPOINTS, TORCH_FILES, TRAINING_STATES
from tests.fuzz.targets.documents import BENCHES, DESCRIPTIONS, LOADGEN_LOGS, RESUMED, TABLES
from tests.fuzz.targets.graphs import GRAPHS, ZOO
from tests.fuzz.targets.images import IMAGES, LABELS, SOURCES

TARGETS: dict[str, Target] = {
    target.name: target
    for target in (
        GRAPHS, ZOO, CHECKPOINTS, TORCH_FILES, TRAINING_STATES, TABLES, RESUMED, PASSPORTS, ENGINES, PLANS, INSPECTED,
        BENCHES, LOADGEN_LOGS, DESCRIPTIONS, IMAGES, SOURCES, LABELS,
    )
}  # fmt: skip
