"""What a gift does, whatever crashes: `manage.py test shop`."""

from django.test import TestCase

from lambda_tasks.testing import CaptureTasksMixin, simulate
from shop.models import Order, Step


class GiftTests(CaptureTasksMixin, TestCase):
    def test_a_gift_that_is_approved_is_paid_and_sent_once(self) -> None:
        order_id, gift = self._order()
        self.client.post(f"/gifts/{gift}/answer/", {"approved": "yes"})

        with simulate("crash"):
            self.tasks.run()

        done = ["paid", "packed 0", "packed 1", "asked"]
        assert self._steps(order_id) == sorted(done)

    def test_a_gift_that_is_refused_is_refunded(self) -> None:
        order_id, gift = self._order()
        self.client.post(f"/gifts/{gift}/answer/", {"approved": "no"})

        self.tasks.run(raise_failures=False)

        refunded = ["paid", "packed 0", "packed 1", f"refunded receipt-{order_id}"]
        assert self._steps(order_id) == sorted(refunded)

    def _order(self) -> tuple[int, str]:
        answer = self.client.post("/gifts/", {"reference": "G-1"}).json()
        return Order.objects.get(reference=answer["order"]).pk, answer["invocations"][0]

    def _steps(self, order_id: int) -> list[str]:
        names = Step.objects.filter(order=order_id).values_list("name", flat=True)
        return sorted(names)
