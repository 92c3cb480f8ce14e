"""API keys: made, kept as hashes, recognised.

A key is dfk_ID_SECRET. The id is looked up; the secret, 256 random bits, is kept only as SHA-256 of
the whole key. A slow hash (bcrypt, argon2) protects what people choose from being guessed; nobody
guesses 256 random bits, and its cost on every call would be a way to stop the gateway.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated

import yaml
from pydantic import AwareDatetime, StringConstraints, ValidationError

from gateway.caller import Caller
from gateway.errors import Unauthenticated
from gateway.identity.settings import Grant
from model_pool.settings import Section

PREFIX = "dfk_"
ID_BYTE_COUNT, SECRET_BYTE_COUNT = 8, 32
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # a thousand keys in a tenth of the time
KeyId = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16}$")]


class BadKeys(ValueError):
    """A keys file is not one; the text says where and why, and nothing of a hash."""


class KeyRecord(Grant):
    """What is kept of a key."""

    hash: Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")]
    created: AwareDatetime
    expires: AwareDatetime | None = None
    revoked: AwareDatetime | None = None

    def fault(self, now: datetime) -> str:
        """Why the key is not good any more; empty where it is."""
        if self.revoked is not None:
            return "was revoked"
        return "has expired" if self.expires is not None and self.expires <= now else ""


class KeysDocument(Section):
    """A keys file. It holds no secret: whoever reads it cannot call."""

    keys: dict[KeyId, KeyRecord] = {}


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key that was just made. text: all of it, which is kept nowhere."""

    id: str
    text: str
    hash: str


def make_key() -> NewKey:
    """A key that nobody has."""
    name = secrets.token_hex(ID_BYTE_COUNT)
    text = f"{PREFIX}{name}_{secrets.token_urlsafe(SECRET_BYTE_COUNT)}"
    return NewKey(name, text, hash_of(text))


def hash_of(text: str) -> str:
    """What is kept of a key. The id is in it, so that no hash is good for another record."""
    return f"sha256:{hashlib.sha256(text.encode('utf-8', 'replace')).hexdigest()}"


def read_keys(data: bytes) -> KeysDocument:
    """Raises BadKeys."""
    try:
        document = yaml.load(data.decode(), Loader=LOADER)
        return KeysDocument.model_validate({} if document is None else document)
    except ValidationError as error:
        faults = error.errors(include_url=False, include_input=False, include_context=False)
        places = (f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in faults)
        raise BadKeys("; ".join(places)) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        # Its text may quote the file.
        raise BadKeys(f"not YAML: {type(error).__name__}") from None


class KeyRing:
    """Recognises keys."""

    def __init__(self, records: Mapping[str, KeyRecord]) -> None:
        self._records = records
        self._callers = {name: one.to_caller() for name, one in records.items()}
        self._nobody = make_key().hash

    def caller(self, text: str, now: datetime) -> Caller:
        """Whose key it is. Raises Unauthenticated.

        It takes as long for an id that is not known as for a wrong secret. That a key has expired
        is told only to who has it.
        """
        name = text.removeprefix(PREFIX).partition("_")[0]
        record = self._records.get(name)
        kept = self._nobody if record is None else record.hash
        is_right = hmac.compare_digest(kept, hash_of(text))
        if record is None or not is_right:
            raise Unauthenticated("the key is not known")
        if fault := record.fault(now):
            raise Unauthenticated(f"the key {name} {fault}", key_id=name)
        return self._callers[name]
