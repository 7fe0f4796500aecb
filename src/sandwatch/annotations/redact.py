"""Takes credentials out of URLs before anything is frozen: a snapshot is kept, copied and pushed for years.

Exports hold signed links to the imagery (Google's ``X-Goog-Signature``, Amazon's ``X-Amz-Signature``, Azure's ``sig``)
and tile addresses with access tokens. A snapshot needs none of them, and they differ at every export.
"""

from __future__ import annotations

import re

# A URL inside JSON, also inside JSON inside a JSON string: '/' and '&' may be escaped, any number of times.
_ESCAPED = rb"\\+/|\\+u[0-9a-fA-F]{4}"
_URL = re.compile(
    rb"(?P<scheme>https?:(?:\\*/){2})(?P<user>[^\s/\"\\@?#]+@)?"
    rb"(?P<rest>(?:[^\s\"\\?]|" + _ESCAPED + rb")*)(?P<query>\?(?:[^\s\"\\]|" + _ESCAPED + rb")*)?"
)
_SECRET = re.compile(rb"(?:sig|token|key|secret|passw|credential|auth)[^=&;?]*=", re.IGNORECASE)


def redact(line: bytes) -> tuple[bytes, int]:
    """Removes the query of every http(s) URL one of whose parameters is named like a credential, and any user name.

    Everything else stays byte for byte.

    Returns:
        the line, and how many URLs were shortened.
    """
    shortened = 0

    def without_credentials(match: re.Match[bytes]) -> bytes:
        nonlocal shortened
        query = match["query"] or b""
        secret = _SECRET.search(query) is not None
        shortened += secret or match["user"] is not None
        return match["scheme"] + match["rest"] + (b"" if secret else query)

    return _URL.sub(without_credentials, line), shortened
