# SPDX-License-Identifier: GPL-3.0-or-later
# This file is private to the multibase.supabase collection; it may change at any time.
"""Sealing: what a module prints reaches only the process that asked for it.

Ansible shows a module's output: over SSH at -vvv, and with ANSIBLE_DEBUG always and next to the module's arguments. A
``no_log`` of the task hides the first, and only where somebody remembered to write it. So secrets leave a host
encrypted: whoever asks makes a pair of keys, sends the public one along as an argument, and keeps the private one in
memory (X25519, HKDF-SHA256 and ChaCha20-Poly1305 of the cryptography library; a key is used once).

This keeps secrets out of what is printed and recorded. That the two ends are who they say they are is SSH's business.
"""

from __future__ import annotations

import base64
import binascii
from typing import Any, Dict, Mapping

from ._errors import LibraryMissing, MultibaseError

# A key is derived for one text only, so its nonce need not differ.
_NONCE = bytes(12)


def _library() -> Any:
    """Return the class of private keys. Raises LibraryMissing when the cryptography library is not there."""
    try:
        from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
    except ImportError as error:
        raise LibraryMissing(
            "handing credentials over needs Python's cryptography library on this host: install python3-cryptography "
            "(the role multibase_host does)"
        ) from error
    return X25519PrivateKey


def _public_bytes(private: Any) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    raw: bytes = private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    return raw


def _cipher(private: Any, other: bytes, sender: bytes, receiver: bytes) -> Any:
    """Return the cipher that both ends derive, bound to both public keys."""
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    try:
        shared = private.exchange(X25519PublicKey.from_public_bytes(other))
    except ValueError as error:
        raise MultibaseError("the address that something was to be sealed for, or came from, is none") from error
    return ChaCha20Poly1305(HKDF(SHA256(), 32, None, b"multibase credentials" + sender + receiver).derive(shared))


def _decode(text: Any) -> bytes:
    try:
        return base64.b64decode(str(text), validate=True)
    except (binascii.Error, ValueError):
        return b""


def seal(content: bytes, address: str) -> Dict[str, str]:
    """Return ``content`` as only the ``Receiver`` with this address can open it: ``sender`` and ``text``."""
    private = _library().generate()
    sender, receiver = _public_bytes(private), _decode(address)
    text = _cipher(private, receiver, sender, receiver).encrypt(_NONCE, content, None)
    return {"sender": base64.b64encode(sender).decode("ascii"), "text": base64.b64encode(text).decode("ascii")}


class Receiver:
    """One who asks for something sealed. ``address`` is public; what it opens is nobody else's."""

    def __init__(self) -> None:
        self._private = _library().generate()
        self._public = _public_bytes(self._private)
        self.address = base64.b64encode(self._public).decode("ascii")

    def open(self, sealed: Mapping[str, str]) -> bytes:
        """Return what was sealed for this address. Raises MultibaseError when it was not, or came damaged."""
        from cryptography.exceptions import InvalidTag

        sender = _decode(sealed.get("sender", ""))
        cipher = _cipher(self._private, sender, sender, self._public)
        try:
            content: bytes = cipher.decrypt(_NONCE, _decode(sealed.get("text", "")), None)
        except (InvalidTag, ValueError) as error:
            raise MultibaseError("what the host sent is not what it sealed for this run") from error
        return content
