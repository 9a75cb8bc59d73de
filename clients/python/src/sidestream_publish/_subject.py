"""What may stand in a subject or a header: the sidecar's own rules, so that an event lands where its user listens.

What is no text at all is none of it either.
"""

from __future__ import annotations

import base64
import re
import unicodedata
from typing import Literal, Optional

#: The sidecar's `identity.user_encoding`.
UserEncoding = Literal["refuse", "base64url"]

#: Longest token that stands for a variable, in bytes; also the longest prefix.
_TOKEN_BYTES_MAX = 128
#: Longest event name or message id, in bytes.
_HEADER_BYTES_MAX = 256


def is_token(text: str) -> bool:
    """One plain token: visible ASCII, no dot, no wildcard, no `$` first."""
    plain = _is_visible(text) and len(text) <= _TOKEN_BYTES_MAX
    return plain and not text.startswith("$") and not any(c in ".*>" for c in text)


def is_prefix(text: str) -> bool:
    """Plain tokens with dots between them. What begins with `_` belongs to NATS and its clients."""
    fits = isinstance(text, str) and len(text) <= _TOKEN_BYTES_MAX
    return fits and not text.startswith("_") and all(map(is_token, text.split(".")))


def is_header_value(text: str) -> bool:
    """What may be the value of a header and comes out of it as it went in."""
    if not isinstance(text, str):
        return False
    if not text or text.strip() != text or any(unicodedata.category(c) in ("Cc", "Cs") for c in text):
        return False
    return len(text.encode()) <= _HEADER_BYTES_MAX


def leaf(event: str) -> str:
    """The last token of an event's subject: its name where that is a token, as the sidecar's own `notify` does it."""
    if not is_header_value(event) or event.startswith("sidestream."):
        raise ValueError(
            f"{quoted(event)} is not an event name: 1 to 256 bytes, no control characters, "
            "no white space at its ends, not `sidestream.`"
        )
    return event if is_token(event) else "message"


def user_token(encoding: UserEncoding, user: str) -> str:
    """The token by which a user is reached."""
    token = user
    if encoding == "base64url" and _needs_encoding(user):
        token = _encode(user) if _is_visible(user) else ""
    if not is_token(token):
        raise ValueError(
            f"{quoted(user)} is not a user id: one plain subject token, or visible ASCII where ids are "
            "encoded; 128 bytes at most"
        )
    return token


def quoted(value: object) -> str:
    """A value as it may stand in an error."""
    return repr(value[:_HEADER_BYTES_MAX] if isinstance(value, str) else value)[: 4 * _HEADER_BYTES_MAX]


def _needs_encoding(user: str) -> bool:
    # A plain id that could be taken for an encoded one is encoded too. Each decoding is a quarter shorter, so this
    # ends.
    if not is_token(user):
        return True
    inner = _decode(user)
    return inner is not None and _is_visible(inner) and _needs_encoding(inner)


def _is_visible(text: str) -> bool:
    return isinstance(text, str) and re.fullmatch("[!-~]+", text) is not None


def _encode(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode("latin-1")).decode().rstrip("=")


def _decode(text: str) -> str | None:
    # Exactly what `_encode` makes: the decoder alone takes more.
    if not re.fullmatch("[A-Za-z0-9_-]+", text) or len(text) % 4 == 1:
        return None
    inner = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode("latin-1")
    return inner if _encode(inner) == text else None
