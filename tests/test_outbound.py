"""How an address is reached: without a proxy on this machine, and without certificates where there is no TLS."""

from __future__ import annotations

import ssl

import httpx2
import pytest

from reviewmill.outbound import way_to


@pytest.mark.parametrize("url", ["http://127.0.0.1:8000/v1", "http://localhost", "http://[::1]:11434/v1"])
def test_plain_http_on_this_machine_reads_no_certificates(url: str) -> None:
    way = way_to(url)
    assert way["trust_env"] is False
    trusted = way["verify"]
    assert isinstance(trusted, ssl.SSLContext)
    assert trusted.cert_store_stats()["x509_ca"] == 0
    # Whatever speaks TLS after all is refused, not believed.
    assert (trusted.verify_mode, trusted.check_hostname) == (ssl.CERT_REQUIRED, True)
    with httpx2.Client(**way) as client:
        assert client.trust_env is False


@pytest.mark.parametrize(
    ("url", "proxies"),
    [("https://127.0.0.1/v1", False), ("http://llm.example.com/v1", True), ("https://llm.example.com", True)],
)
def test_all_others_are_checked_as_usual(url: str, proxies: bool) -> None:
    assert way_to(url) == {"trust_env": proxies, "verify": True}
