"""A project with limits, for `benchmarks.limits`."""
