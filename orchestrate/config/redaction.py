"""Secrets that stand in addresses, taken out before anything is written or printed.

An address may hold a password or a token in its user part (``postgresql://me:word@host``), in its query
(``?token=word``) or in its fragment.  Nobody can know which names are harmless there, so all three are replaced by
``***``; host, port and path stay, for they say where a record is.  A password may hold what an address may not, such as
a slash, so the user part ends at the last ``@``; an address with a folder alone (``sqlite:////folder``) has none.

Everything that a run writes of its config comes from :func:`orchestrate.config.loader.to_plain`, which applies it; the
tracker and the command line apply it to what other libraries say.
"""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import Mapping
from typing import Any

HIDDEN = "***"

_REST = r"(?P<place>[^?#]*)(?P<query>\?[^#]*)?(?P<fragment>#.*)?"
_ADDRESS = re.compile(rf"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*://)(?P<user>(?!/).*@)?{_REST}", re.DOTALL)
_IN_TEXT = re.compile(r"\b[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"<>]*(?:[^\s]*@[^\s'\"<>]*)?")


def redact(text: str) -> str:
    """Put ``***`` for the user parts, queries and fragments of the addresses in ``text``."""
    if _ADDRESS.match(text):
        return _ADDRESS.sub(_redacted, text, count=1)
    return _IN_TEXT.sub(lambda found: _ADDRESS.sub(_redacted, found[0], count=1), text)


def redacted(value: Any) -> Any:
    """Apply :func:`redact` to every text in plain data; keys stay."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return {key: redacted(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [redacted(item) for item in value]
    return value


def conceal(text: str, address: str) -> str:
    """Take the secrets of ``address`` out of ``text``, whole or in part, as they stand or decoded, and redact
    addresses.
    """
    found = _ADDRESS.match(address)
    if found is not None:
        text = text.replace(address, redact(address))
        user = (found["user"] or "")[:-1]
        values = [value for _, _, value in (pair.partition("=") for pair in (found["query"] or "?")[1:].split("&"))]
        secrets = [user, user.partition(":")[2] or user, *values, (found["fragment"] or "#")[1:]]
        both = {form for secret in secrets for form in (secret, urllib.parse.unquote(secret)) if len(form) > 2}
        for secret in sorted(both, key=len, reverse=True):
            text = text.replace(secret, HIDDEN)
    return redact(text)


def _redacted(found: re.Match[str]) -> str:
    user = f"{HIDDEN}@" if found["user"] else ""
    query = f"?{HIDDEN}" if found["query"] and found["query"] != "?" else found["query"] or ""
    fragment = f"#{HIDDEN}" if found["fragment"] and found["fragment"] != "#" else found["fragment"] or ""
    return f"{found['scheme']}{user}{found['place']}{query}{fragment}"
