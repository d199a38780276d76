"""A template that is deployed to AWS on a laptop, as far as it goes.

with LocalAws() as aws:
    stack = Stack.deploy(aws, template, parameters={...})
"""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import yaml

from lambda_tasks.core.aws_values import as_texts
from tests.servers.local_aws import ACCOUNT, REGION, LocalAws

PATIENCE_S: Final = 60.0

PSEUDO_PARAMETERS: Final = {
    "AWS::AccountId": ACCOUNT,
    "AWS::Partition": "aws",
    "AWS::Region": REGION,
    "AWS::URLSuffix": "amazonaws.com",
}

PARAMETERS: Final = {
    "AlarmTopic": f"arn:aws:sns:{REGION}:{ACCOUNT}:alarms",
    "ImageUri": f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com/tasks:latest",
}
"""The values of what every template with `--image-uri` asks for."""

NOT_TRIED: Final = (
    "the function's image, which needs Docker: its code runs in a process here",
    "permissions, TLS and encryption, which MiniStack keeps and does not enforce",
    "alarms, for which it has no figures",
    "pollers and their limits: one process feeds the function here",
)
"""What no deployment on a laptop can show."""


class DeploymentFailed(Exception):
    """The stack could not be created; the message has the reasons, by resource."""


@dataclass(frozen=True)
class Stack:
    """A stack that was created, and what its template says."""

    aws: LocalAws
    name: str
    resources: Mapping[str, Any]
    """The template's resources by their logical ids."""
    physical_ids: Mapping[str, str]
    outputs: Mapping[str, str]

    @classmethod
    def deploy(
        cls, aws: LocalAws, template: str, *, name: str = "shop", parameters: Mapping[str, str]
    ) -> "Stack":
        """Create a stack of a template with `--image-uri`. Raises DeploymentFailed."""
        cloudformation = aws.client("cloudformation")
        cloudformation.create_stack(
            StackName=name,
            TemplateBody=template,
            Parameters=[
                {"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()
            ],
            Capabilities=["CAPABILITY_IAM"],
        )
        made = _wait_for(cloudformation, name)
        found = cloudformation.describe_stack_resources(StackName=name)["StackResources"]
        stack = cls(
            aws,
            name,
            read_template(template)["Resources"],
            {each["LogicalResourceId"]: each["PhysicalResourceId"] for each in found},
            {each["OutputKey"]: each["OutputValue"] for each in made.get("Outputs", [])},
        )
        stack._set_what_ministack_leaves_out({"Prefix": "", **parameters})
        cloudformation.close()
        return stack

    def of_type(self, type: str) -> dict[str, Any]:
        """The properties of all resources of a type, such as AWS::SQS::Queue."""
        return {
            id: each["Properties"] for id, each in self.resources.items() if each["Type"] == type
        }

    def queue_url(self, logical_id: str) -> str:
        """The URL of a queue, by which processes on this machine reach it."""
        return f"{self.aws.endpoint_url}/{ACCOUNT}/{self.physical_ids[logical_id].split('/')[-1]}"

    def _set_what_ministack_leaves_out(self, parameters: Mapping[str, str]) -> None:
        """Set the attributes of queues that its CloudFormation does not: redrive, key, FIFO's."""
        queues = self.of_type("AWS::SQS::Queue")
        names = {id: resolve(each["QueueName"], parameters, {}) for id, each in queues.items()}
        arns = {id: f"arn:aws:sqs:{REGION}:{ACCOUNT}:{name}" for id, name in names.items()}
        sqs = self.aws.client("sqs")
        for id, properties in queues.items():
            attributes = resolve(properties, parameters, arns)
            # The first two are for the creation; of the third, its API knows an older limit.
            for name in ("QueueName", "FifoQueue", "MaximumMessageSize"):
                attributes.pop(name, None)
            sqs.set_queue_attributes(QueueUrl=self.queue_url(id), Attributes=as_texts(attributes))
        sqs.close()


def read_template(template: str) -> dict[str, Any]:
    """A template with its functions in their long form, as `{"Ref": ...}`."""
    found: dict[str, Any] = yaml.load(template, _Loader)
    return found


def resolve(value: Any, parameters: Mapping[str, str], arns: Mapping[str, str]) -> Any:
    """A value without functions; `arns` are what `!GetAtt ID.Arn` gives."""
    match value:
        case {"Ref": name}:
            return {**PSEUDO_PARAMETERS, **parameters}[name]
        case {"Fn::GetAtt": [id, "Arn"]}:
            return arns[id]
        case {"Fn::Sub": str(text)}:
            for name, each in {**PSEUDO_PARAMETERS, **parameters}.items():
                text = text.replace(f"${{{name}}}", each)
            return text
        case dict():
            return {key: resolve(each, parameters, arns) for key, each in value.items()}
        case list():
            return [resolve(each, parameters, arns) for each in value]
        case _:
            return value


def _wait_for(cloudformation: Any, name: str) -> dict[str, Any]:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        stack: dict[str, Any] = cloudformation.describe_stacks(StackName=name)["Stacks"][0]
        if stack["StackStatus"] == "CREATE_COMPLETE":
            return stack
        if not stack["StackStatus"].endswith("CREATE_IN_PROGRESS"):
            break
        time.sleep(0.02)
    events = cloudformation.describe_stack_events(StackName=name)["StackEvents"]
    reasons = {
        each["LogicalResourceId"]: each.get("ResourceStatusReason", "")
        for each in events
        if each["ResourceStatus"].endswith("FAILED")
    }
    raise DeploymentFailed(f"{stack['StackStatus']}: {json.dumps(reasons)}")


class _Loader(yaml.SafeLoader):
    """Reads the short form of CloudFormation's functions."""


def _function(loader: _Loader, suffix: str, node: yaml.Node) -> dict[str, Any]:
    match node:
        case yaml.ScalarNode():
            value: Any = loader.construct_scalar(node)
        case yaml.SequenceNode():
            value = loader.construct_sequence(node, deep=True)
        case yaml.MappingNode():
            value = loader.construct_mapping(node, deep=True)
        case _:
            raise TypeError(node)
    if suffix == "GetAtt":
        value = value.split(".", 1)
    return {"Ref": value} if suffix == "Ref" else {f"Fn::{suffix}": value}


_Loader.add_multi_constructor("!", _function)
