"""The Lambda function of either library, under awslambdaric."""

import django

django.setup()

from lambda_tasks.handler import handler  # noqa: E402

__all__ = ["handler"]
