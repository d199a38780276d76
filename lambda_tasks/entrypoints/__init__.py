"""Where messages come in: Lambda's events, a worker, a job of AWS Batch."""
