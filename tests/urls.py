"""The admin, and the views through which tests enqueue."""

from django.contrib import admin
from django.urls import path

from tests.app import views

urlpatterns = [
    path("admin/", admin.site.urls),
    path("classic/", views.classic),
    path("async/", views.asynchronous),
]
