"""The way out: a call goes through the caller's transaction to its queue."""
