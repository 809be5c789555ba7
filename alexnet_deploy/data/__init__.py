"""Images: where they come from, how they become tensors, and what keeps the sets apart."""
