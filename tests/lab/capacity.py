"""Capacity of zones: how many more instances there are, by type and market; without a limit by default."""

from __future__ import annotations

from threading import Lock

ANY = "any"


class Capacity:
    """Limits that count down as instances are launched; the end of an instance gives nothing back."""

    def __init__(self) -> None:
        self._left: dict[tuple[str, str, str], int] = {}
        self._lock = Lock()

    def set(self, zone: str, instance_type: str, market: str, count: int | None) -> None:
        """Set how many more instances there are; None for no limit.

        Args:
            zone, instance_type: name, or ANY.
            market: "spot", "on-demand" or ANY.
            count: number of instances.
        """
        assert market in ("spot", "on-demand", ANY)
        with self._lock:
            self._left.pop((zone, instance_type, market), None)
            if count is not None:
                self._left[zone, instance_type, market] = count

    def clear(self) -> None:
        """Remove all limits."""
        with self._lock:
            self._left.clear()

    def take(self, zone: str, instance_type: str, market: str, least: int, most: int) -> int:
        """Take up to `most` instances.  Returns their number, or 0 if there are fewer than `least`."""
        with self._lock:
            limits = [
                key for key in self._left
                if all(limit in (ANY, asked) for limit, asked in zip(key, (zone, instance_type, market), strict=True))
            ]  # fmt: skip
            given = min([most, *(self._left[key] for key in limits)])
            if given < least:
                return 0
            for key in limits:
                self._left[key] -= given
            return given
