"""Who may use the server: turns a presented secret into a principal. Knows header names, no transport."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping

from inference_engine.domain.errors import Forbidden, Unauthenticated
from inference_engine.domain.requests import Principal

LOCAL = Principal("default", "local")
"""The single user of a server without keys."""
_BEARER = b"bearer "


class AccessService:
    """Checks API keys. The secrets themselves are forgotten at once; their SHA-256 digests are kept."""

    def __init__(
        self, api_keys: tuple[str, ...] = (), header: str = "X-API-Key", *, model_changes: bool = True
    ) -> None:
        self._model_changes = model_changes
        self._header = header.lower().encode("latin-1")
        self._header_name = header
        self._keys = [
            (digest := hashlib.sha256(key.encode()).digest(), Principal("default", digest.hex()[:12]))
            for key in api_keys
        ]

    @property
    def has_keys(self) -> bool:
        return bool(self._keys)

    def authenticate(self, headers: Mapping[bytes, bytes]) -> Principal:
        """The principal of a request, by `Authorization: Bearer KEY`, the configured header or `X-API-Key`.

        `headers` has names in lower case.

        Raises:
            Unauthenticated: no key came, or one that is not known.
        """
        if not self._keys:
            return LOCAL
        secret = self._secret(headers)
        if secret is None:
            raise Unauthenticated(f"no API key: send Authorization: Bearer KEY, or {self._header_name}: KEY")
        digest = hashlib.sha256(secret).digest()
        found: Principal | None = None
        for known, principal in self._keys:  # every key is compared, so that the time tells nothing
            if hmac.compare_digest(known, digest):
                found = principal
        if found is None:
            raise Unauthenticated("the API key is not known to this server: check it, or ask its operator for one")
        return found

    def permit_model_changes(self, principal: Principal) -> None:
        """Whether this principal may pull, create, copy and delete models.

        Raises:
            Forbidden: model changes are switched off, or the request came past `authenticate`.
        """
        if not self._model_changes or not principal.key_id:
            raise Forbidden("this server's models cannot be changed through its API: see the setting model_changes")

    def _secret(self, headers: Mapping[bytes, bytes]) -> bytes | None:
        bearer = headers.get(b"authorization", b"")
        if bearer[: len(_BEARER)].lower() == _BEARER:
            return bearer[len(_BEARER) :].strip()
        return headers.get(self._header) or headers.get(b"x-api-key")
