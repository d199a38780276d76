from django.contrib import admin
from django.urls import path
from shop import views

urlpatterns = [
    path("", views.index, name="index"),
    path("runs/", views.runs, name="runs"),
    path("orders/", views.place_order, name="place_order"),
    path("async/orders/", views.place_order_async, name="place_order_async"),
    path("gifts/", views.place_gift, name="place_gift"),
    path("gifts/<uuid:gift>/answer/", views.answer_gift, name="answer_gift"),
    path("admin/", admin.site.urls),
]
