"""How long a request would take from its arrival in a line, from how long others took. Pure."""

from __future__ import annotations

from model_pool.errors import PoolSaturated

LEARNING_RATE = 0.1  # of the newest: about the last ten count
# Forecasts are of the middle: of those that would just be in time, half would be late.
CAUTION = 1.5
RETRY_AFTER_S = 1.0  # at least


class LineForecast:
    """Seconds for each place of a line, and from leaving it to the answer's end, for each model.

    A line is limited by a count, and how fast it moves depends on the machine and on the answers.
    Who would be late anyway is better told at once: what is computed for it is lost to others.
    line: those who wait for the same reason, such as those of one priority. One of which nothing
    is known is taken to be as quick as the quickest.
    """

    def __init__(self) -> None:
        self._place_s: dict[str, float] = {}
        self._run_s: dict[str, float] = {}

    def total_s(self, line: str, model: str, ahead_count: int) -> float:
        """Until the end of an answer that so many wait ahead of; 0 where nobody does.

        So who finds no line is never turned away, and the forecast cannot hold on to a bad time.
        """
        if not ahead_count:
            return 0.0
        quickest_s = min(self._place_s.values(), default=0.0)
        place_s = self._place_s.get(line, quickest_s)
        return (ahead_count + 1) * place_s + self._run_s.get(model, 0.0)

    def check(self, line: str, model: str, ahead_count: int, time_left_s: float) -> None:
        """Raises PoolSaturated where so many ahead leave a request too little time."""
        needed_s = CAUTION * self.total_s(line, model, ahead_count)
        if needed_s > time_left_s:
            raise PoolSaturated(
                f"{ahead_count} requests go before this one, so that the answer would come too "
                "late",
                retry_after_s=max(RETRY_AFTER_S, needed_s - time_left_s),
                queued_count=ahead_count,
            )

    def started(self, line: str, ahead_count: int, waited_s: float) -> None:
        """One has left the line, where so many were ahead of it when it came."""
        self.took(line, waited_s / (ahead_count + 1))

    def took(self, line: str, place_s: float) -> None:
        """One place of the line took so long."""
        self._place_s[line] = _mixed(self._place_s.get(line, place_s), place_s)

    def gave_up(self, line: str, ahead_count: int, waited_s: float) -> None:
        """One has waited so long, and was not reached: the line is at least that slow."""
        seen_s = waited_s / (ahead_count + 1)
        known_s = self._place_s.get(line, 0.0)
        if seen_s > known_s:
            self._place_s[line] = _mixed(known_s, seen_s)

    def ended(self, model: str, run_s: float) -> None:
        """One was answered, so long after it had left the line."""
        self._run_s[model] = _mixed(self._run_s.get(model, run_s), run_s)


def _mixed(known: float, seen: float) -> float:
    return known + LEARNING_RATE * (seen - known)
