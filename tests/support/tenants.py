"""A fleet with keys: who there is, and every secret that was used."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from gateway.identity.keys import KeyRecord, KeysDocument, make_key
from gateway.identity.keys_file import change_keys
from support.issuer import AUDIENCE, Issuer

Metadata = tuple[tuple[str, str], ...]
NOW = datetime.now(UTC).replace(microsecond=0)


@dataclass
class Tenants:
    """Everybody who may call, and some who may not.

    metadata: what each shows. secrets: none of them may be seen anywhere.
    """

    directory: Path
    issuer: Issuer
    metadata: dict[str, Metadata] = field(default_factory=dict)
    ids: dict[str, str] = field(default_factory=dict)
    secrets: set[str] = field(default_factory=set)

    @property
    def keys_file(self) -> Path:
        """Of fleet.yaml."""
        return self.directory / "keys.yaml"

    @property
    def identity(self) -> dict[str, Any]:
        """The section of fleet.yaml."""
        jwt = {"issuer": self.issuer.name, "audience": AUDIENCE, "jwks_url": self.issuer.jwks_url}
        return {"keys_file": str(self.keys_file), "reload_s": 0.05, "jwt": jwt}

    def add(self, caller: str, *, header: str = "authorization", **changes: object) -> None:
        """A key in the file."""
        made = make_key()
        given = {"caller": caller, "hash": made.hash, "created": NOW, **changes}
        record = KeyRecord.model_validate(given)
        change_keys(self.keys_file, lambda old: KeysDocument(keys={**old.keys, made.id: record}))
        self.ids[caller] = made.id
        self.shows(caller, made.text, header)
        self.secrets |= {made.hash.partition(":")[2], made.text.rpartition(f"{made.id}_")[2]}

    def shows(self, caller: str, key: str, header: str = "authorization") -> None:
        """What it sends, in the file or not."""
        self.secrets.add(key)
        self.metadata[caller] = ((header, f"Bearer {key}" if header == "authorization" else key),)

    def key_of(self, caller: str) -> str:
        """As DELTAFLEET_API_KEY has it."""
        return self.metadata[caller][0][1].removeprefix("Bearer ")

    def revoke(self, caller: str) -> None:
        """In the file."""
        name = self.ids[caller]

        def change(old: KeysDocument) -> KeysDocument:
            taken = old.keys[name].model_copy(update={"revoked": NOW})
            return KeysDocument(keys={**old.keys, name: taken})

        change_keys(self.keys_file, change)


def make_tenants(directory: Path, issuer: Issuer) -> Tenants:
    """One for each way to be somebody, or nobody."""
    everything = ["infer", "read-costs", "administer"]
    tenants = Tenants(directory, issuer)
    tenants.metadata["nobody"] = ()
    for scope in everything:
        tenants.add(scope, scopes=[scope])
    tenants.add("everything", scopes=everything, header="x-api-key")
    tenants.add("nothing", scopes=[])
    tenants.add("other-tenant", scopes=["infer"])
    tenants.add("only-sql", models=["sql"])
    tenants.add("sql-or-base", models=["sql", "base"])
    tenants.add("expired", scopes=everything, expires=NOW - timedelta(seconds=1))
    tenants.add("revoked", scopes=everything, revoked=NOW)
    tenants.shows("wrong-secret", f"dfk_{tenants.ids['everything']}_{make_key().text[-43:]}")
    tenants.shows("wrong-id", make_key().text, "x-api-key")
    tenants.shows("nonsense", "sk-somebody-elses-key-0123456789")
    tenants.metadata["basic"] = (("authorization", "Basic ZnJpZW5kOnBhc3N3b3Jk"),)
    tenants.metadata["twice"] = (
        *tenants.metadata["infer"],
        *tenants.metadata["other-tenant"],
    )
    issuer.add_key("now", "ES256")
    tenants.shows("token", issuer.token("now", sub="token"))
    tenants.shows("token-administers", issuer.token("now", scope="administer"))
    tenants.shows("token-without-scope", issuer.token("now", scope=None))
    tenants.shows("late-token", issuer.token("now", exp=int(NOW.timestamp()) - 3600))
    tenants.shows("strange-token", issuer.token("now", aud="others"))
    return tenants
