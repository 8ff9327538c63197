"""Infobip's clock: it tells whole seconds, as WhatsApp's does, and may be behind everybody else's or ahead of them."""

import math


class Clock:
    """Turns true times into those that Infobip writes; milliseconds since 1970."""

    def __init__(self) -> None:
        self.ahead = 0.0  # seconds; negative: behind

    def tell(self, at: float) -> float:
        """Say what the clock showed at a true time."""
        return math.floor(at / 1000 + self.ahead) * 1000.0
