"""The way out: from a call, through the transaction, to the queue."""
