"""The project of `benchmarks.watching`: two trivial tasks, watched as a variable says."""
