"""Work over large image sets: cut into chunks, done here or by the workers of a Ray cluster, put together exactly."""
