"""The entry points of messages: Lambda's events, a worker, a job of AWS Batch."""
