from django.contrib import admin

from shop.models import Order, Step


class StepInline(admin.TabularInline):  # type: ignore[type-arg]
    model = Step
    extra = 0
    readonly_fields = ("name", "done_at")


@admin.register(Order)
class OrderAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    list_display = ("reference", "title", "email", "placed_at")
    inlines = (StepInline,)
