"""What the admin's list costs among a million records: statements, and their time.

Run `uv run --group bench python -m benchmarks.admin_list --rows 100000` for a first look.
"""

from datetime import timedelta
from statistics import median
from typing import Final

from benchmarks.many_records import many_records

REPEATED: Final = 7
LIST: Final = "/admin/lambda_tasks/taskrecord/"


def main() -> None:
    with many_records(__doc__) as newest:
        print("| list | statements | slowest, ms | all, ms |\n|---|---:|---:|---:|")
        for name, query in queries(newest).items():
            print(measure(name, query))


def queries(sought: str) -> dict[str, dict[str, str]]:
    from django.utils.timezone import now

    middle = (now() - timedelta(days=3)).isoformat()
    return {
        "newest": {},
        "page 20": {"p": "20"},
        "older, from the middle": {"before": middle},
        "FAILED": {"status__exact": "FAILED"},
        "CANCELLED: none": {"status__exact": "CANCELLED"},
        "QUEUED": {"status__exact": "QUEUED"},
        "one task": {"task_name__exact": "shop.tasks.task_7"},
        "a task without records": {"task_name__exact": "shop.tasks.gone"},
        "one task, FAILED": {"task_name__exact": "shop.tasks.task_0", "status__exact": "FAILED"},
        "a queue without records": {"queue__exact": "other"},
        "past 7 days": {"enqueued_at__gte": (now() - timedelta(days=7)).isoformat(" ")},
        "the beginning of an id": {"q": sought[:8]},
        "a whole id": {"q": sought},
        "a text in arguments": {"q": "no such text"},
        "by duration": {"o": "-4"},
    }


def measure(name: str, query: dict[str, str]) -> str:
    from django.contrib.auth.models import User
    from django.db import connection
    from django.test import Client
    from django.test.utils import CaptureQueriesContext

    user = User.objects.filter(username="anna").first() or User.objects.create_superuser("anna")
    client = Client()
    client.force_login(user)
    runs: list[list[float]] = []
    for _ in range(REPEATED):
        with CaptureQueriesContext(connection) as captured:
            answered = client.get(LIST, query)
        assert answered.status_code == 200, answered.status_code
        ours = [each for each in captured if "lambda_tasks_" in each["sql"]]
        runs.append([float(each["time"]) * 1000 for each in ours])
    slowest, total = median(max(run) for run in runs), median(sum(run) for run in runs)
    return f"| {name} | {len(runs[0])} | {slowest:.0f} | {total:.0f} |"


if __name__ == "__main__":
    main()
