"""Metrics as Prometheus reads them."""

from __future__ import annotations

from alexnet_deploy.serving.metrics import Registry


def test_families_are_written_as_prometheus_reads_them() -> None:
    registry = Registry({"replica": "0"})
    registry.describe("asked_total", "counter", "What was\nasked.")
    registry.describe("depth", "gauge", "How deep.")
    registry.describe("took_seconds", "histogram", "How long.", (0.1, 1.0))
    registry.describe("never_total", "counter", "Nothing.")
    registry.add("asked_total", code="200")
    registry.add("asked_total", code="200")
    registry.add("asked_total", code='a "b" \\ c\n')
    registry.set("depth", 2.5)
    for value in (0.05, 0.1, 0.5, 7):
        registry.observe("took_seconds", value, route="x")
    assert registry.text() == (
        "# HELP asked_total What was\\nasked.\n"
        "# TYPE asked_total counter\n"
        'asked_total{replica="0",code="200"} 2\n'
        'asked_total{replica="0",code="a \\"b\\" \\\\ c\\n"} 1\n'
        "# HELP depth How deep.\n"
        "# TYPE depth gauge\n"
        'depth{replica="0"} 2.5\n'
        "# HELP took_seconds How long.\n"
        "# TYPE took_seconds histogram\n"
        'took_seconds_bucket{replica="0",route="x",le="0.1"} 2\n'
        'took_seconds_bucket{replica="0",route="x",le="1"} 3\n'
        'took_seconds_bucket{replica="0",route="x",le="+Inf"} 4\n'
        'took_seconds_sum{replica="0",route="x"} 7.65\n'
        'took_seconds_count{replica="0",route="x"} 4\n'
        "# HELP never_total Nothing.\n"
        "# TYPE never_total counter\n"
    )


def test_without_labels_there_are_no_braces() -> None:
    registry = Registry()
    registry.describe("depth", "gauge", "How deep.")
    registry.set("depth", 3)
    assert registry.text().splitlines()[-1] == "depth 3"
