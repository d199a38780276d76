"""What teams watch their systems with, on the public hooks: metrics, traces, error trackers."""
