"""A CDK app with the construct: prints the templates of its stacks, as JSON by their names."""
# pyright: reportMissingImports=false

import json
import sys
import tempfile

from aws_cdk import App, Stack
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_ecr as ecr
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_sns as sns

from lambda_tasks.cdk import LambdaTasks


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        app = App(outdir=directory)
        plain = Stack(app, "plain")
        tasks = LambdaTasks(
            plain, "Tasks", code=_code(plain), alarm_topic=sns.Topic(plain, "Alarms")
        )
        web = iam.Role(plain, "Web", assumed_by=iam.ServicePrincipal("ecs-tasks.amazonaws.com"))
        tasks.grant_send(web)
        full = Stack(app, "full")
        LambdaTasks(
            full,
            "Tasks",
            code=_code(full),
            alarm_topic=sns.Topic(full, "Alarms"),
            prefix="staging-",
            environment={"STAGE": "staging"},
            vpc=ec2.Vpc(full, "Vpc"),
            kms_key=kms.Key(full, "Key"),
            pollers=4,
            snapstart=True,
        )
        stacks = app.synth().stacks
        json.dump({each.stack_name: each.template for each in stacks}, sys.stdout)


def _code(stack: Stack) -> lambda_.DockerImageCode:
    repository = ecr.Repository.from_repository_name(stack, "Repository", "shop")
    return lambda_.DockerImageCode.from_ecr(repository)


if __name__ == "__main__":
    main()
