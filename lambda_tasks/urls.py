"""The URLs of the endpoints: `path("tasks/", include("lambda_tasks.urls"))`.

LAMBDA_TASKS_ENDPOINTS says who may call which of them, by the names here.
"""

from typing import Final

from .endpoints.views import endpoint

app_name: Final = "lambda_tasks"

urlpatterns: Final = [
    endpoint("health/", "health"),
    endpoint("status/", "status"),
    endpoint("status/<str:id>/", "record"),
    endpoint("tick/", "tick"),
    endpoint("run/", "run"),
    endpoint("purge/", "purge"),
]
