"""Local Response Normalization: oracle, torch module, recovery from exported graphs, lowerings."""
