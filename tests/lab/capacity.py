"""How many more instances a zone has, by type and market; unlimited where nothing is said."""

from __future__ import annotations

from threading import Lock

ANY = "any"


class Capacity:
    """Counts down as instances are launched; nothing comes back when they end."""

    def __init__(self) -> None:
        self._left: dict[tuple[str, str, str], int] = {}
        self._lock = Lock()

    def set(self, zone: str, instance_type: str, market: str, count: int | None) -> None:
        """State how many more there are, None for no limit.

        Args:
            zone, instance_type: by name, or ANY.
            market: "spot", "on-demand" or ANY.
        """
        assert market in ("spot", "on-demand", ANY)
        with self._lock:
            self._left.pop((zone, instance_type, market), None)
            if count is not None:
                self._left[zone, instance_type, market] = count

    def clear(self) -> None:
        """No limit anywhere."""
        with self._lock:
            self._left.clear()

    def take(self, zone: str, instance_type: str, market: str, least: int, most: int) -> int:
        """How many of `most` are given; 0 where there are fewer than `least`."""
        with self._lock:
            limits = [
                key for key in self._left
                if all(said in (ANY, is_) for said, is_ in zip(key, (zone, instance_type, market), strict=True))
            ]  # fmt: skip
            given = min([most, *(self._left[key] for key in limits)])
            if given < least:
                return 0
            for key in limits:
                self._left[key] -= given
            return given
