"""Measurement: latency and accuracy of sessions, each in a process of its own, interleaved."""
