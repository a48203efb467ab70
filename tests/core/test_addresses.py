"""Which addresses somebody else may make us reach."""

from ipaddress import ip_network

import pytest

from rtcfoci.core.addresses import is_misshapen, permits

PRIVATE = [
    "127.0.0.1",
    "10.1.2.3",
    "169.254.169.254",
    "100.64.0.1",
    "0.0.0.0",
    "224.0.0.1",
    "::1",
    "fd00::1",
    "fe80::1%eth0",
    "fec0::1",
    "::ffff:10.0.0.1",
    "::127.0.0.1",
    "64:ff9b::10.0.0.1",
    "2002:a00:1::",
]


@pytest.mark.parametrize("address", PRIVATE)
def test_private_addresses_are_not_permitted_unless_their_network_is(address):
    assert not permits(address)
    assert permits(address, [ip_network("0.0.0.0/0"), ip_network("::/0")])


@pytest.mark.parametrize("address", ["93.184.216.34", "2606:2800:220:1::1", "2002:5db8:d822::1"])
def test_public_addresses_are(address):
    assert permits(address)


def test_a_network_counts_for_what_an_address_leads_to():
    ten = [ip_network("10.0.0.0/8")]
    assert permits("::ffff:10.1.2.3", ten)
    assert not permits("::ffff:192.168.0.1", ten)


@pytest.mark.parametrize("name", ["example.org", "", "2130706433", "0177.0.0.1"])
def test_a_name_is_no_address(name):
    with pytest.raises(ValueError, match=r".*"):
        permits(name)


@pytest.mark.parametrize(
    ("host", "misshapen"),
    [
        ("example.org", False),
        ("4.example.org", False),
        ("2130706433", True),
        ("0177.0.0.1", True),
        ("127.1.", True),
        ("\uff11\uff12\uff17.0.0.1", True),
        ("b\u00fccher.example", True),
    ],
)
def test_what_resolvers_may_take_for_an_address(host, misshapen):
    assert is_misshapen(host) is misshapen
