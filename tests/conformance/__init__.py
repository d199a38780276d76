"""Django's own tests of its tasks framework, run against this backend.

They are fetched with Django's source distribution, never kept here. Each task that they run goes
one of three ways: as a serialized message, in a Lambda event, through the handler on the test's
thread; through a real SQS to the real handler; through the table to a worker's process.

On Django 5.2 they run on the package django-tasks, whose own tests, of which they are the
successors, it does not distribute.

    python -m tests.conformance [testing | sqs | worker]
"""
