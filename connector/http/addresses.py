"""Where calls may go: which hosts are a platform's, and which networks a name may lead to."""

import ipaddress
import re
from urllib.parse import urlsplit

from connector.http.errors import AddressRefused, PrivateAddress

LOCAL_HOSTS = re.compile(r"localhost|127(\.\d+){3}|::1")

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # how a host without IPv4 reaches one that has nothing else


def check_address(url: str, *, service: str, hosts: re.Pattern[str], allow_local: bool) -> str:
    """Give the address back without a trailing slash if it may be called.

    :raises AddressRefused: if it is not https on a host of the platform (or, where allowed, anything on this machine)
    """
    try:
        parts = urlsplit(url.strip().rstrip("/"))
        host, port = (parts.hostname or "").lower(), parts.port
    except ValueError as exc:
        raise AddressRefused(service, f"the address is not valid: {exc}") from exc
    if parts.username or parts.password or parts.query or parts.fragment:
        raise AddressRefused(service, f"{host or 'the address'} must not carry a user, a query or a fragment")
    if allow_local and parts.scheme in ("http", "https") and LOCAL_HOSTS.fullmatch(host):
        return parts.geturl()
    if any(len(label) > 63 for label in host.split(".")):  # no name of the internet, and no resolver takes it
        raise AddressRefused(service, "the address is not valid: a part of its name is too long")
    if parts.scheme != "https" or port is not None or parts.path or not hosts.fullmatch(host):
        raise AddressRefused(service, f"{host or 'the address'} is not an https address of {service}")
    return f"https://{host}"


def why_not_public(address: str) -> str:
    """Say what kind of address it is where it does not belong to the internet; nothing where it does."""
    found = ipaddress.ip_address(address)
    if isinstance(found, ipaddress.IPv6Address):
        in_nat64 = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF) if found in _NAT64 else None
        found = found.ipv4_mapped or found.sixtofour or in_nat64 or found
    for kind in ("unspecified", "loopback", "link_local", "site_local", "multicast", "reserved", "private"):
        if getattr(found, f"is_{kind}", False):
            return kind.replace("_", "-")
    return "" if found.is_global else "private"  # such as those that providers share among customers


def wrong_network(host: str, address: str) -> str:
    """Say to what kind of network a host leads where it should not; nothing where all is well.

    A name of the internet must not lead into a private network, nor a name of this machine elsewhere.
    """
    kind = why_not_public(address)
    return "" if kind == ("loopback" if LOCAL_HOSTS.fullmatch(host) else "") else kind or "public"


def private_address(service: str, host: str, kind: str) -> PrivateAddress:
    """Say that a host leads to an address of a wrong kind."""
    return PrivateAddress(service, f"{host} leads to a {kind} address, so nothing was sent there")
