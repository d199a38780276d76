"""The kinds of queues, a file each: settings, limits, checks, transport and source of one kind.

A new kind is such a file, and a line in `kinds`.
"""
