"""The admin, the endpoints, and the views through which tests enqueue."""

from django.contrib import admin
from django.urls import include, path

from tests.app import views

urlpatterns = [
    path("admin/", admin.site.urls),
    path("classic/", views.classic),
    path("async/", views.asynchronous),
    path("tasks/", include("lambda_tasks.urls")),
]
