"""Engines: one builder for TensorRT and TensorRT-RTX, and what a finished plan says of itself."""
