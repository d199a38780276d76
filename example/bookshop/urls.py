from django.contrib import admin
from django.urls import path
from shop import views

urlpatterns = [
    path("", views.index, name="index"),
    path("runs/", views.runs, name="runs"),
    path("orders/", views.place_order, name="place_order"),
    path("async/orders/", views.place_order_async, name="place_order_async"),
    path("admin/", admin.site.urls),
]
