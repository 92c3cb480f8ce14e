"""The deltafleet command, one file per kind of work."""
