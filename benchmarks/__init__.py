"""Measurements behind the figures in the documents; each writes into benchmarks/results/ with its environment."""
