"""The kinds of queues. Each has a file with its settings, limits, checks, transport and source.

To add a kind, write such a file, and add a line to `kinds`.
"""
