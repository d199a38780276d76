"""A template of what this project needs on AWS: queues, function, tick, alarms, permissions.

It follows from the settings and the tasks. What differs between two deployments, such as the
subnets of a VPC, are parameters of the template.

Exit code: 0, 1 for settings without a queue for a function, 2 for arguments that make no sense.
"""

from argparse import ArgumentParser
from pathlib import Path
from typing import Any, Final

from django.core.management.base import CommandError, OutputWrapper

from lambda_tasks.deployment import sam
from lambda_tasks.management.output import DONE, USAGE

HELP: Final = "Prints a template of what the project needs on AWS."


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of `template`."""
    parser.add_argument("format", choices=["sam"], help="sam: for AWS SAM and CloudFormation")
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="write it to a file, which must not exist"
    )
    parser.add_argument("--force", action="store_true", help="overwrite the file of --output")
    parser.add_argument(
        "--image-uri", action="store_true",
        help="the image is in ECR, its URI a parameter; otherwise `sam build` builds it",
    )  # fmt: skip
    parser.add_argument("--vpc", action="store_true", help="the function is in a VPC")
    parser.add_argument(
        "--rds-proxy", choices=sorted(sam.ENGINE_FAMILIES),
        help="an RDS Proxy stands before this database; implies --vpc",
    )  # fmt: skip
    parser.add_argument(
        "--secret", action="store_true",
        help="the function's environment is a secret of Secrets Manager",
    )  # fmt: skip
    parser.add_argument(
        "--parameters", action="store_true",
        help="the function's environment comes from a path in Parameter Store",
    )  # fmt: skip
    parser.add_argument(
        "--doctor", action="store_true",
        help="the function may read what the doctor looks at from inside",
    )  # fmt: skip
    parser.add_argument(
        "--kms-key", action="store_true", help="a KMS key of your own encrypts messages"
    )
    parser.add_argument(
        "--snapstart", action="store_true", help="functions start from a snapshot (SnapStart)"
    )
    parser.add_argument(
        "--pollers", action="store_true",
        help="queues have provisioned pollers, in place of a maximum concurrency",
    )  # fmt: skip


def run(stdout: OutputWrapper, options: dict[str, Any]) -> int:
    """Print or write the template, and return 0. Raises ImproperlyConfigured and CommandError."""
    text = sam.render(
        sam.Options(
            vpc=options["vpc"] or bool(options["rds_proxy"]),
            **{name: options[name] for name in sam.Options.__slots__ if name != "vpc"},
        )
    )
    output: Path | None = options["output"]
    if output is None:
        stdout.write(text, ending="")
        return DONE
    try:
        with output.open("w" if options["force"] else "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise CommandError(
            f"{output} exists. Overwrite it with --force.", returncode=USAGE
        ) from None
    except OSError as error:
        why = f"{output} can't be written: {error.strerror}."
        raise CommandError(why, returncode=USAGE) from None
    return DONE
