"""The embedded demo fleet: a tiny base language model and seven specialists made from it."""
