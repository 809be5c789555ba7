"""A server on Ray Serve that speaks the Open Inference Protocol: what it says, how it batches, and how it starts."""
