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
async def log_errors(*, token: SecretStr, pin: SecretStr) -> None:
    text, short = token.get_secret_value(), pin.get_secret_value()
    try:
        raise KeyError(text)
    except KeyError:
        shop_logger.exception("refused", extra={"sent": {"token": text}}, stack_info=True)
    shop_logger.warning("pin %s of %s", short, f"{short}45")


@lambda_task(singleton=True, singleton_by=("account", "token"))
async def pay_alone(*, account: str, token: SecretStr) -> None:
    pass


@lambda_task
def pay_two(*, token: SecretStr, pin: SecretStr) -> int:
    return len(token.get_secret_value()) + len(pin.get_secret_value())


@lambda_task
async def arepeat(*, value: str) -> str:
    return value


@lambda_task
def charge(*, amount: int, password: str) -> None:
    raise ValueError(f"{amount} for {password}")


@lambda_task
async def decline(*, token: SecretStr) -> None:
    raise ValueError(f"A token of {len(token.get_secret_value())} characters was declined.")


@lambda_task(durable=False)
async def log_elsewhere(*, token: SecretStr) -> None:
    shop_logger.warning("charging %s", token.get_secret_value())
