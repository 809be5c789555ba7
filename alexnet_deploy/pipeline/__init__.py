"""Composes the stages over a work directory; the CLI and the tests call it."""
