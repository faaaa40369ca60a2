"""Which names this server answers to when it asks for no key: keeps foreign pages out that rebind their own name."""

from __future__ import annotations

import ipaddress

from inference_engine.domain.errors import Forbidden

_REMEMBERED = 256


def host_of(origin: str) -> str:
    """The name or address in an origin or a `Host` header."""
    authority = origin.rpartition("://")[2]
    return authority[1:].partition("]")[0] if authority.startswith("[") else authority.partition(":")[0]


class LocalHosts:
    """Checks `Host` headers of a server without keys.

    A page of `evil.example` whose name suddenly resolves to 127.0.0.1 is of the same origin as this server in the
    browser's eyes; only the `Host` header gives it away. Addresses, `localhost` and `names` are answered.
    """

    def __init__(self, *names: str) -> None:
        self._names = frozenset(name.lower() for name in names)
        self._known: set[bytes | None] = {None}  # HTTP/1.0 without the header: not a browser

    def check(self, host: bytes | None) -> None:
        """Hold one `Host` header, port included, against what is local.

        Raises:
            Forbidden: it is the name of another site.
        """
        if host in self._known:
            return
        text = (host or b"").decode("latin-1").lower()
        if not self._is_local(text):
            raise Forbidden(
                f"this server asks for no key and so answers only as localhost or by address, not as {text[:200]!r}: "
                "use an address, set api_keys, or add the page to cors_origins"
            )
        if len(self._known) < _REMEMBERED:
            self._known.add(host)

    def _is_local(self, host: str) -> bool:
        name = host_of(host)
        if name == "localhost" or name.endswith(".localhost") or name in self._names:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True
