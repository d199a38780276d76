"""Where the log lines of a run are: the query for CloudWatch Logs Insights, and a link with it."""

import os
import re
from datetime import UTC, datetime, timedelta
from typing import Final

from .. import conf
from ..records.tables import TaskRecord

MARGIN: Final = timedelta(minutes=5)
"""How long before the call and after the end of a run its log lines are looked for."""

CONSOLE: Final = "https://{host}console.aws.amazon.com/cloudwatch/home{region}"

PLAIN: Final = re.compile(r"[^0-9A-Za-z._-]")
"""What CloudWatch's console has encoded in its addresses: an asterisk, and the byte in hex."""


def query(record: TaskRecord) -> str:
    """Return the query that finds the log lines of a run."""
    return f'fields @timestamp, @message\n| filter invocation_id = "{record.pk}"\n| sort @timestamp'


def link(record: TaskRecord) -> str | None:
    """Return the address of CloudWatch's console with the query; None without LOG_GROUP."""
    group = conf.current().log_group
    if not group or record.enqueued_at is None:
        return None
    region = conf.current().aws.get("region_name") or os.environ.get("AWS_REGION", "")
    console = CONSOLE.format(
        host=f"{region}." if region else "", region=f"?region={region}" if region else ""
    )
    start = record.enqueued_at - MARGIN
    end = (record.end_time or datetime.now(UTC)) + MARGIN
    asked = (
        f"~(end~'{_moment(end)}~start~'{_moment(start)}~timeType~'ABSOLUTE~tz~'LOCAL"
        f"~editorString~'{_encoded(query(record))}~source~(~'{_encoded(group)}))"
    )
    return f"{console}#logsV2:logs-insights$3FqueryDetail$3D{asked}"


def _moment(at: datetime) -> str:
    return _encoded(f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%S}.000Z")


def _encoded(text: str) -> str:
    return PLAIN.sub(lambda found: "".join(f"*{byte:02x}" for byte in found.group().encode()), text)
