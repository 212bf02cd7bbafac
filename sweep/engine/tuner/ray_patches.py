"""Where Ray 2.60 stands in the way: what is changed in it while it runs, and why.

Each change reaches into private parts, so it is made for the version that it was read in alone; with
any other, Ray is as it comes: slower to start, and less forgiving of a lack of memory.
"""

from __future__ import annotations

from typing import Any

import ray
from ray._private.node import Node

KNOWN = ray.__version__.startswith("2.60.")


def start_bare() -> None:
    """Make `ray.init` start what runs trials on this machine, and nothing else.

    It starts the dashboard's server (with `include_dashboard=False`, too), the autoscaler and the
    forwarder of logs as well: a Python process each, without use here, and half of the 5 s that
    `ray.init` takes on 2 cores.
    """

    def no_dashboard(self: Any, **_: Any) -> None:
        self._webui_url = ""

    def nothing(self: Any) -> None:
        del self

    if KNOWN:
        Node.start_api_server = no_dashboard  # type: ignore[method-assign]
        Node.start_monitor = nothing  # type: ignore[method-assign]
        Node.start_log_monitor = nothing  # type: ignore[method-assign]


def take_waiting_workers() -> None:
    """Let trials run in the workers that Ray has started in advance.

    Tune asks for an environment of its own, a few variables, so Ray starts other processes (1.6 s)
    and the waiting ones stay idle.  Ours have their variables from the process that started Ray; those of
    a cluster that others started have not, so it is left as it comes there.
    """
    from ray.tune.execution.class_cache import _ActorClassCache

    def plain(self: Any, trainable: type) -> Any:
        if trainable not in self._cache:
            self._cache[trainable] = ray.remote(trainable)
        return self._cache[trainable]

    if KNOWN:
        _ActorClassCache.get = plain  # type: ignore[method-assign]


def survive_memory_monitor() -> None:
    """Make a trial that Ray's memory monitor kills fail alone.

    The error of such a kill is neither an actor's nor a task's, which ends the whole `Tuner.fit`
    (`_actor_task_failed`: "Caught unexpected exception").  Shown as an actor's error it is one
    trial's, like any death.
    """
    from ray.air.execution._internal.actor_manager import RayActorManager
    from ray.exceptions import RayActorError, RayError, RayTaskError

    original = RayActorManager._actor_task_failed

    def failed(self: Any, tracked_actor_task: Any, exception: Exception) -> Any:
        if isinstance(exception, RayError) and not isinstance(exception, RayActorError | RayTaskError):
            exception = RayActorError(error_msg=f"{type(exception).__name__}: {str(exception)[:2000]}")
        return original(self, tracked_actor_task=tracked_actor_task, exception=exception)

    if KNOWN:
        RayActorManager._actor_task_failed = failed  # type: ignore[method-assign]
