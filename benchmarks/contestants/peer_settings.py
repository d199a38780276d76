"""The Django settings of the peers that need Django; the environment says which one it is."""

import json
import os

SECRET_KEY = "for benchmarks only"
USE_TZ = True
INSTALLED_APPS = [os.environ["BENCHMARK_PEER"]]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
DATABASES = {
    "default": {"CONN_MAX_AGE": None, **json.loads(os.environ["BENCHMARK_DATABASE"])},
}

if "BENCHMARK_CACHE" in os.environ:  # where django-q2 collects the results of an iterable
    CACHES = {
        "default": {
            "BACKEND": "django.core.cache.backends.redis.RedisCache",
            "LOCATION": os.environ["BENCHMARK_CACHE"],
        }
    }

# Of django-q2. By tens it is faster with many tasks, and slower with one.
Q_CLUSTER = {
    "orm": "default",
    "workers": 2,
    "bulk": int(os.environ.get("BENCHMARK_BULK", "1")),
    "queue_limit": 50,
    "timeout": 60,
    "retry": 120,
    "save_limit": 0,
    "log_level": "ERROR",
}

# Of django-tasks-db.
TASKS = {"default": {"BACKEND": "django_tasks_db.DatabaseBackend"}}
