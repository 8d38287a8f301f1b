"""Keys of the gateway's API: random secrets, of which only the SHA-256 is kept."""

from __future__ import annotations

from flock_ray.market.ledger_values import Key, KeyTerms


class Keys:
    """The ledger's keys."""

    def create(self, terms: KeyTerms, label: str = "") -> tuple[Key, str]:
        """Make a key: it, and its secret (`fr-` and 43 letters), which is nowhere else."""
        raise NotImplementedError

    def authenticate(self, secret: str) -> Key:
        """The key with this secret.

        Raises:
            KeyRefusedError: it is unknown, revoked or expired.
        """
        raise NotImplementedError

    def revoke(self, key: str) -> Key:
        """Refuse a key from now on; requests that run go on. Revoking it again changes nothing.

        Raises:
            KeyRefusedError: there is no such key.
        """
        raise NotImplementedError

    def find(self, account: bytes | None = None) -> list[Key]:
        """All keys, or those of an account, the oldest first."""
        raise NotImplementedError
