"""What looks after the project's supplies: constraints and the offline audit. Not part of the package."""
