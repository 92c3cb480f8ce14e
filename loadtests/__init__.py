"""Load tests of a running fleet. Nothing that serves imports them."""
