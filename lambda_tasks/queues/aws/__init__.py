"""AWS's client, as SQS and Batch use it."""
