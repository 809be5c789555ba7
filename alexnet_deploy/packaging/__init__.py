"""Model repositories of inference servers, from the artifacts of a deployment."""
