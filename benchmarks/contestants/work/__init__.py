"""The work that both task libraries are given, as an app of the benchmarks' project."""
