"""Real handler processes that are killed: nothing is lost, and nothing runs twice in effect."""
