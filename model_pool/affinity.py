"""Which requests should meet on one worker, as its cache has how they begin."""

from __future__ import annotations

import hashlib

from deltafleet.v1 import worker_pb2

_DIGEST_BYTES = 8


def affinity_key(request: worker_pb2.RunRequest, session: str, character_count: int) -> str:
    """The session, else the beginning of the messages; empty: nothing to meet for.

    character_count: how long a beginning must be the same; 0: only sessions count. One that is
    shorter is worth less to a cache than an even load.
    """
    if session:
        return f"{request.model}\0session\0{session}"
    if not character_count:
        return ""
    beginning, left_count = [request.model], character_count
    for message in request.messages:
        beginning.append(f"{message.role}\0{message.content[:left_count]}")
        left_count -= len(message.content)
        if left_count <= 0:
            return "\0".join(beginning)
    return ""


def rank(key: str, worker: str) -> bytes:
    """Each worker's rank for a key; the largest is the key's own.

    Rendezvous hashing (Thaler and Ravishankar 1998, A name-based mapping scheme for rendezvous):
    where a worker comes or goes only its own keys move, and every gateway ranks alike.
    """
    joined = f"{key}\0\0{worker}".encode()
    return hashlib.blake2b(joined, digest_size=_DIGEST_BYTES).digest()
