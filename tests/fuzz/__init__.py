"""Mutation fuzz of everything that reads a file: refused with words, or right; never a traceback, a hang or a crash.

`python -m tests.fuzz --seconds 600` runs it for long, `python -m tests.fuzz TARGET NUMBER` runs one case anew.
"""
