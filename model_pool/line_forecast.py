"""How long a request would wait in an engine's line, from how long others did. Pure."""

from __future__ import annotations

LEARNING_RATE = 0.1  # of the newest: about the last ten count


class LineForecast:
    """Seconds for each place of a model's line, and from leaving it to the answer's end.

    A line is limited by a count, and how fast it moves depends on the machine and on the answers.
    Who would be late anyway is better told at once: what is computed for it is lost to others.
    """

    def __init__(self) -> None:
        self._place_s: dict[str, float] = {}
        self._run_s: dict[str, float] = {}

    def total_s(self, model: str, ahead_count: int) -> float:
        """Until the end of an answer that so many wait ahead of; 0 where nobody does.

        So who finds no line is never turned away, and the forecast cannot hold on to a bad time.
        """
        if not ahead_count:
            return 0.0
        return (ahead_count + 1) * self._place_s.get(model, 0.0) + self._run_s.get(model, 0.0)

    def started(self, model: str, ahead_count: int, waited_s: float) -> None:
        """One has left the line, where so many were ahead of it when it came."""
        seen_s = waited_s / (ahead_count + 1)
        self._place_s[model] = _mixed(self._place_s.get(model, seen_s), seen_s)

    def gave_up(self, model: str, ahead_count: int, waited_s: float) -> None:
        """One has waited so long, and was not reached: the line is at least that slow."""
        seen_s = waited_s / (ahead_count + 1)
        known_s = self._place_s.get(model, 0.0)
        if seen_s > known_s:
            self._place_s[model] = _mixed(known_s, seen_s)

    def ended(self, model: str, run_s: float) -> None:
        """One was answered, so long after it had left the line."""
        self._run_s[model] = _mixed(self._run_s.get(model, run_s), run_s)


def _mixed(known: float, seen: float) -> float:
    return known + LEARNING_RATE * (seen - known)
