"""Signatures of requests: what they cover, and what clients and proxies may write otherwise."""

import pytest

from lambda_tasks.core.request_signature import Signature, SignedRequest
from lambda_tasks.endpoints import sign_request

KEY = "k" * 32
URL = "https://shop.example/tasks/purge/?a=1"


def _value(method: str = "POST", url: str = URL, body: bytes = b"{}", key: str = KEY) -> str:
    return SignedRequest.to(method, url, body).signature(key, signed_at=1, nonce="n" * 16)


def test_a_signature_covers_every_part() -> None:
    others = [
        _value(method="GET"),
        _value(url="https://shop.example/tasks/purge/?a=2"),
        _value(url="https://shop.example/tasks/run/?a=1"),
        _value(url="https://staging.example/tasks/purge/?a=1"),
        _value(url="https://shop.example:8443/tasks/purge/?a=1"),
        _value(body=b"{} "),
        _value(key="x" * 32),
        SignedRequest.to("POST", URL, b"{}").signature(KEY, signed_at=2, nonce="n" * 16),
        SignedRequest.to("POST", URL, b"{}").signature(KEY, signed_at=1, nonce="m" * 16),
    ]

    assert len({_value(), *others}) == len(others) + 1


@pytest.mark.parametrize(
    "same",
    [
        "https://SHOP.example/tasks/purge/?a=1",
        "https://shop.example:443/tasks/purge/?a=1",
        "https://shop.example/t%61sks/purge/?a=1",
        "https://user:password@shop.example/tasks/purge/?a=1#part",
    ],
)
def test_what_names_the_same_request_has_the_same_signature(same: str) -> None:
    assert _value(url=same) == _value()


def test_no_part_can_pass_for_another() -> None:
    parts = (
        SignedRequest("POST", "shop.example", "/a\nb", "c", b""),
        SignedRequest("POST", "shop.example", "b", "/a", b""),
    )

    assert len({each.signature(KEY, signed_at=1, nonce="n" * 16) for each in parts}) == 2


def test_the_order_of_the_parts_is_as_the_page_says() -> None:
    # printf 'v1\n1\nnnnnnnnnnnnnnnnn\n...' | openssl dgst -sha256 -hmac kkkkkkkkk...
    assert _value() == "ed2fed754002a5cfbcb2920c85e3ca8c4b85a68b76fade3e4c1b1cb5060f6027"


@pytest.mark.parametrize("url", ["/tasks/tick/", "shop.example/tasks/tick/", "ftp://shop/", ""])
def test_a_url_without_a_host_can_not_be_signed(url: str) -> None:
    with pytest.raises(ValueError, match="absolute"):
        sign_request("POST", url, key=KEY)


def test_a_header_is_read_as_it_was_written() -> None:
    signature = Signature(1_700_000_000, "n" * 16, "f" * 64)
    parameters = str(signature).partition(" ")[2]

    assert Signature.of(parameters) == signature
    for wrong in (parameters[:-1], parameters + "0", parameters.upper(), parameters + "\n", ""):
        assert Signature.of(wrong) is None


@pytest.mark.parametrize("body", ["{}", b"{}"])
def test_what_a_client_signs_is_verified_by_any_of_the_keys(body: str | bytes) -> None:
    header = sign_request("post", URL, body, key=KEY)["Authorization"]

    signature = Signature.of(header.partition(" ")[2])

    assert signature is not None
    assert signature.is_of(SignedRequest.to("POST", URL, b"{}"), ["x" * 32, KEY])
    assert not signature.is_of(SignedRequest.to("POST", URL, b"{}"), ["x" * 32])
