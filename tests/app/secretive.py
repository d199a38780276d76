"""Tasks with arguments that are not for people's eyes."""

import logging

from pydantic import BaseModel, SecretStr

from lambda_tasks import lambda_task, task_logger

shop_logger = logging.getLogger("shop")


class Login(BaseModel):
    user: str
    password: SecretStr


@lambda_task
def pay(*, account: str, token: SecretStr) -> int:
    task_logger.info("paying with %s", token.get_secret_value())
    return len(token.get_secret_value())


@lambda_task
async def apay(*, tokens: list[SecretStr] | None = None) -> list[int]:
    return [len(token.get_secret_value()) for token in tokens or []]


@lambda_task(durable=False)
def pay_direct(*, token: SecretStr) -> int:
    return len(token.get_secret_value())


@lambda_task(retry_on=(ConnectionError,), max_retries=1)
async def fail(*, token: SecretStr, password: str) -> None:
    task_logger.info("using %s and %s", token.get_secret_value(), password)
    raise ConnectionError(f"{token.get_secret_value()} and {password} were refused")


@lambda_task(durable=False)
async def log_elsewhere(*, token: SecretStr) -> None:
    shop_logger.warning("charging %s", token.get_secret_value())
