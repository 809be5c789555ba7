"""Faults on purpose: processes killed at every point at which they write, full disks, two commands at once."""
