"""The settings that the plugin of django-stubs reads."""

SECRET_KEY = "typed"
INSTALLED_APPS = ["lambda_tasks", "shop"]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
