"""The names of OpenTelemetry's semantic conventions for messaging that traces use.

The conventions are in development, so the names stand in one place. See "Messaging spans" of its
semantic conventions.
"""

from typing import Final

SYSTEM: Final = "messaging.system"
OPERATION_NAME: Final = "messaging.operation.name"
OPERATION_TYPE: Final = "messaging.operation.type"
DESTINATION: Final = "messaging.destination.name"
MESSAGE_ID: Final = "messaging.message.id"
CONVERSATION_ID: Final = "messaging.message.conversation_id"
ERROR_TYPE: Final = "error.type"

AWS_SQS: Final = "aws_sqs"
"""The system of Amazon SQS."""

# Names that the conventions lack

OWN_SYSTEM: Final = "lambda_tasks"
"""The system of queues that are no SQS."""

TASK: Final = "lambda_tasks.task"
ATTEMPT: Final = "lambda_tasks.attempt"
RETRIES: Final = "lambda_tasks.retries"
OUTCOME: Final = "lambda_tasks.outcome"
SCHEDULE: Final = "lambda_tasks.schedule"
WORKFLOW: Final = "lambda_tasks.workflow"
STEP: Final = "lambda_tasks.step"
