"""What carries messages, a file each."""
