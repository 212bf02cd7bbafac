"""Patches of Ray 2.60, with the reason for each.

They change private parts of Ray, so they are applied only to the version whose code was read for them.  Any other
version runs unchanged: it starts more slowly, and a lack of memory can end all trials instead of one.
"""

from __future__ import annotations

import json
from typing import Any

import ray
from ray._private import services
from ray._private.node import Node
from ray._private.ray_constants import PROCESS_TYPE_RAYLET

from models.catalog import is_own

# Options of the raylet.  It must have commands of agents: `cat` waits for the end of the pipe that the raylet gives to
# an agent, so it ends with the raylet.  It waits for the agents' ports only if they are 0; nothing connects to port 1.
NO_AGENTS = {
    "--dashboard_agent_command": "cat",
    "--runtime_env_agent_command": "cat",
    "--metrics-agent-port": "1",
    "--metrics_export_port": "1",
    "--runtime_env_agent_port": "1",
}
KNOWN = ray.__version__.startswith("2.60.")


def start_bare() -> None:
    """Make `ray.init` start only the processes that run trials on this machine.

    Otherwise it also starts the dashboard's server (even with `include_dashboard=False`), the autoscaler, the log
    forwarder, and two agents.  Each is a Python process without use here.  Together they take more than half of the 5 s
    of `ray.init` on 2 cores.  The agents do harm, too: Ray's process for this machine ends itself if they are not up
    within 15 s, which happens on a busy machine, and of a start that failed so they stay for up to 90 s.
    """

    def no_dashboard(self: Any, **_: Any) -> None:
        self._webui_url = ""

    def nothing(self: Any) -> None:
        del self

    start = services.start_ray_process

    def without_agents(command: list[str], process_type: str, *rest: Any, **more: Any) -> Any:
        if process_type == PROCESS_TYPE_RAYLET:
            command = [
                next((f"{name}={value}" for name, value in NO_AGENTS.items() if word.startswith(f"{name}=")), word)
                for word in command
            ]
            command.append("--dashboard_agent_listen_port=1")
        return start(command, process_type, *rest, **more)

    if KNOWN:
        services.start_ray_process = without_agents
        Node.start_api_server = no_dashboard  # type: ignore[method-assign]
        Node.start_monitor = nothing  # type: ignore[method-assign]
        Node.start_log_monitor = nothing  # type: ignore[method-assign]


def take_waiting_workers() -> None:
    """Let trials run in the workers that Ray has started in advance.

    Tune requests a separate environment with a few variables.  So Ray starts other processes (1.6 s), and the waiting
    ones stay idle.  Workers of a Ray cluster that the tuner started have these variables already.  Workers of a cluster
    that others started do not, so this patch must not be applied there.
    """
    from ray.tune.execution.class_cache import _ActorClassCache

    def plain(self: Any, trainable: type) -> Any:
        if trainable not in self._cache:
            self._cache[trainable] = ray.remote(trainable)
        return self._cache[trainable]

    if KNOWN:
        _ActorClassCache.get = plain  # type: ignore[method-assign]


def end_after_own_detectors() -> None:
    """Let a process that has run a user's own detector end, instead of giving it another trial.

    Such a detector may have changed what `sweep.trial.process_state` cannot restore.
    """
    from ray.tune.execution.tune_controller import TuneController

    original = TuneController._maybe_cache_trial_actor

    def cached(self: Any, trial: Any) -> bool:
        return not is_own(json.loads(trial.config["job"])["spec"]["detector"]) and bool(original(self, trial))

    if KNOWN:
        TuneController._maybe_cache_trial_actor = cached  # type: ignore[method-assign]


def survive_memory_monitor() -> None:
    """Let only one trial fail when Ray's memory monitor kills its process.

    The error of such a kill is neither an actor's nor a task's.  It therefore ends the whole `Tuner.fit`
    (`_actor_task_failed`: "Caught unexpected exception").  Converted to an actor's error, it is the error of one trial,
    like that of any other lost process.
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
