"""What is lost, what happens twice and what stays open under faults of every kind.

A site (`site`) is what a project needs to run: SQS, a database, ways to both that can be disturbed,
and who consumes its queues. A storm (`storm`) does to it what `kinds` lists. A trial (`trial`)
takes orders meanwhile, and audits what became of them. `comparison` is about kills alone, beside
django-lambda-tasks.
"""
