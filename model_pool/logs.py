"""JSON log lines on standard error: an event name, its fields, the traceback where there is one.

What is written while a call is handled has its request id and, where there is one, its trace.
"""

from __future__ import annotations

import datetime
import json
import logging
import sys

from model_pool.call import current_trace, request_id

_ENCODER = json.JSONEncoder(default=str)
# What every LogRecord has; the rest came through `extra`.
_PLAIN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, event, then what `extra` brought."""

    def format(self, record: logging.LogRecord) -> str:
        """Render one record."""
        line: dict[str, object] = {
            "time": datetime.datetime.fromtimestamp(record.created, datetime.UTC).isoformat(),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
        }
        if name := request_id.get(""):
            line["request_id"] = name
        if trace := current_trace.get():
            line["trace_id"] = trace
        line |= {key: value for key, value in vars(record).items() if key not in _PLAIN}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return _ENCODER.encode(line)


class WithoutCallersFaults(logging.Filter):
    """What grpc.aio logs with a traceback, though a caller may do it as often as it likes: send a
    header that is not UTF-8 (it is logged whole, and a secret may be in it), or leave at the moment
    in which its answer is sent.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """False for those."""
        return not str(record.msg).startswith(("Invalid encoding on", "ExecuteBatchError raised"))


def start_logging(level: str = "INFO") -> None:
    """Send every logger's lines to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    handler.addFilter(WithoutCallersFaults())
    # What no line of ours tells is not looked for (Python's manual, Logging HOWTO, Optimization).
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for chatty in ("sentence_transformers", "httpx", "httpx2", "transformers"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
