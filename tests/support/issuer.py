"""An OIDC issuer's part that a gateway sees: a key set over HTTP, and the tokens it signs."""

from __future__ import annotations

import contextlib
import http.server
import json
import threading
import time
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

AUDIENCE = "deltafleet"


class Issuer:
    """Serves on a port of its own until `close`. asked_count: how often the key set was fetched."""

    def __init__(self) -> None:
        self._keys: dict[str, tuple[str, Any]] = {}
        self.asked_count = 0
        self.status = 200
        self.padding = ""
        issuer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer.asked_count += 1
                data = json.dumps(issuer.key_set() | {"padding": issuer.padding}).encode()
                self.send_response(issuer.status)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                with contextlib.suppress(ConnectionError):  # who has read enough leaves
                    self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        self.name = f"http://127.0.0.1:{self._server.server_port}"
        self.jwks_url = f"{self.name}/keys"

    def close(self) -> None:
        """Nobody answers from now on."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def add_key(self, name: str, algorithm: str) -> None:
        """A new key: RS256 or ES256."""
        key = (
            rsa.generate_private_key(65537, 2048)
            if algorithm == "RS256"
            else ec.generate_private_key(ec.SECP256R1())
        )
        self._keys[name] = (algorithm, key)

    def drop_key(self, name: str) -> None:
        """It signs no more, and nobody is told of it."""
        del self._keys[name]

    def key_set(self) -> dict[str, Any]:
        """As RFC 7517 has it."""
        keys = []
        for name, (algorithm, key) in self._keys.items():
            kind = RSAAlgorithm if algorithm == "RS256" else ECAlgorithm
            plain = kind.to_jwk(key.public_key(), as_dict=True)
            keys.append(plain | {"kid": name, "alg": algorithm, "use": "sig"})
        return {"keys": keys}

    def public_key(self, name: str) -> Any:
        """What everybody knows of a key."""
        return self._keys[name][1].public_key()

    def token(self, key: str, **claims: object) -> str:
        """A token that is good for an hour, but for the claims that are given; None: left out."""
        algorithm, secret = self._keys[key]
        now = int(time.time())
        said = {"iss": self.name, "aud": AUDIENCE, "sub": "robot", "iat": now, "exp": now + 3600}
        said |= {"scope": "infer"} | claims
        plain = {name: one for name, one in said.items() if one is not None}
        return jwt.encode(plain, secret, algorithm, headers={"kid": key})
