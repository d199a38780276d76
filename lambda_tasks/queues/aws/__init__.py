"""The client of AWS's services, for SQS and Batch."""
