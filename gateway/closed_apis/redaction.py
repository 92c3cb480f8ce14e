"""What is taken out of texts before they leave. Fails closed: what cannot be redacted stays."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import re
from collections.abc import Callable, Sequence
from typing import Any

from deltafleet.v1 import worker_pb2
from gateway.closed_apis.configuration import Redaction
from gateway.errors import RedactionFailed
from model_pool.settings import SettingsError

Hook = Callable[[str], Any]


def find_hook(name: str) -> Hook:
    """`module:function`, from where Python finds modules. Raises SettingsError."""
    module, _, function = name.partition(":")
    try:
        hook = getattr(importlib.import_module(module), function)
    except Exception as error:  # a module may raise anything while it is read
        raise SettingsError(f"redact_hook: {name}: {type(error).__name__}: {error}") from None
    if not callable(hook):
        raise SettingsError(f"redact_hook: {name} is no function")
    return hook  # type: ignore[no-any-return]


class Redactor:
    """Applies the patterns in their order, then the hook, to every message.

    hook: text → text; an ordinary function runs in a thread, a coroutine function on the loop.
    """

    def __init__(self, redactions: Sequence[Redaction], hook: Hook | None) -> None:
        self._patterns = [(re.compile(one.pattern), one.text) for one in redactions]
        self._hook = hook

    async def redact(self, request: worker_pb2.RunRequest) -> worker_pb2.RunRequest:
        """A copy that may leave. Raises RedactionFailed."""
        redacted = worker_pb2.RunRequest()
        redacted.CopyFrom(request)
        try:
            for message in redacted.messages:
                message.content = await self._redact(message.content)
        except Exception as error:  # a hook may raise anything; its text may hold the prompt
            raise RedactionFailed(
                f"a message could not be redacted ({type(error).__name__}); nothing was sent"
            ) from error
        return redacted

    async def _redact(self, text: str) -> str:
        for pattern, replacement in self._patterns:
            text = pattern.sub(replacement, text)
        if self._hook is None:
            return text
        if inspect.iscoroutinefunction(self._hook):
            redacted = await self._hook(text)
        else:
            redacted = await asyncio.to_thread(self._hook, text)
        if not isinstance(redacted, str):
            raise TypeError("the hook returned no text")
        return redacted
