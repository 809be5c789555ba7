"""From AlexNet weights to a deployment that has proved itself."""

__version__ = "0.1.0"
