"""A network of namespaces without a way out: an operator in the middle, machines on its bridge, laptops outside.

The addresses are reserved for documentation, and exist only in these namespaces.
"""

from __future__ import annotations

import ctypes
import os
import secrets
import signal
import socket
import subprocess
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

OPERATOR = "198.51.100.10"  # address of AWS's API, for machines and laptops
OUTSIDE = "198.51.100.129"  # address of the operator on a laptop's cable
LAPTOP = "198.51.100.130"
PUBLIC = "203.0.113"  # first three numbers of the machines' public addresses
INSIDE = "10.77"  # first two numbers of their private addresses
PREFIX = "sweep-lab-"  # start of the namespaces' names; the id of the process that made them follows
CLONE_NEWNET = 0x40000000

T = TypeVar("T")


def ip(*words: object, netns: str | None = None) -> str:
    """Run iproute2's `ip`, in a namespace or on the real machine.

    Raises:
        RuntimeError: it fails.
    """
    command = ["ip", *(["-n", netns] if netns else []), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


def remove_leftovers() -> None:
    """Remove namespaces of processes that have ended, and kill the processes in them."""
    for line in ip("netns", "list").splitlines():
        name = line.split()[0]
        maker = name.removeprefix(PREFIX).partition("-")[0]
        if name.startswith(PREFIX) and not Path(f"/proc/{maker}").exists():
            remove(name)


def remove(netns: str) -> None:
    """Kill the processes in a namespace, then delete it."""
    for pid in pids(netns):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    with suppress(RuntimeError):
        ip("netns", "del", netns)


def pids(netns: str) -> list[int]:
    """Return the ids, on the real machine, of the processes in a namespace."""
    try:
        return [int(pid) for pid in ip("netns", "pids", netns).split()]
    except RuntimeError:
        return []


def inside(netns: str, action: Callable[[], T]) -> T:
    """Call a function in a thread that has entered a network namespace.  Its sockets belong to the namespace."""
    outcome: list[T] = []
    failure: list[BaseException] = []

    def enter() -> None:
        try:
            with open(f"/run/netns/{netns}") as namespace:
                if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), "setns")
            outcome.append(action())
        except BaseException as error:  # noqa: BLE001  (raised again below, in the caller's thread)
            failure.append(error)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return outcome[0]


def listening(netns: str, address: str, port: int) -> socket.socket:
    """Return a listening socket in a network namespace."""
    return inside(netns, lambda: socket.create_server((address, port), backlog=256))


class Network:
    """One network; `close` removes all of it.

    Machines can reach each other and the operator.  A laptop can reach the operator, and the ports that the machines'
    security groups open (`admit`).
    """

    def __init__(self) -> None:
        self._prefix = f"{PREFIX}{os.getpid()}-{secrets.token_hex(2)}-"
        self.operator = f"{self._prefix}operator"
        self._wires: dict[str, str] = {}
        self._made = 0
        self._admitted: set[tuple[str, int]] = set()
        ip("netns", "add", self.operator)
        self._operate("link", "set", "lo", "up")
        self._operate("addr", "add", f"{OPERATOR}/32", "dev", "lo")
        self._operate("link", "add", "br0", "type", "bridge")
        self._operate("addr", "add", f"{INSIDE}.0.1/16", "dev", "br0")
        self._operate("link", "set", "br0", "up")
        forward = ["ip", "netns", "exec", self.operator, "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"]
        subprocess.run(forward, check=True)

    def add_machine(self, name: str, address: str) -> str:
        """Add a namespace on the bridge, with eth0.  Returns its name."""
        netns, wire = self._wired(name)
        ip("addr", "add", f"{address}/16", "dev", "eth0", netns=netns)
        ip("link", "set", "eth0", "up", netns=netns)
        ip("route", "add", "default", "via", f"{INSIDE}.0.1", netns=netns)
        self._operate("link", "set", wire, "master", "br0", "up")
        return netns

    def add_laptop(self, name: str, *, on_premises: bool = False) -> str:
        """Add a namespace outside.  On premises it can reach all ports of machines at their private addresses."""
        netns, wire = self._wired(name)
        self._operate("addr", "add", f"{OUTSIDE}/30", "dev", wire)
        self._operate("link", "set", wire, "up")
        ip("addr", "add", f"{LAPTOP}/30", "dev", "eth0", netns=netns)
        ip("link", "set", "eth0", "up", netns=netns)
        ip("route", "add", "198.51.100.0/24", "via", OUTSIDE, netns=netns)
        if on_premises:
            ip("route", "add", f"{INSIDE}.0.0/16", "via", OUTSIDE, netns=netns)
        else:
            ip("route", "add", f"{PUBLIC}.0/24", "via", OUTSIDE, netns=netns)
            self._operate("rule", "add", "pref", 200, "iif", wire, "to", f"{PUBLIC}.0/24", "prohibit")
            self._operate("rule", "add", "pref", 201, "iif", wire, "to", f"{INSIDE}.0.0/16", "prohibit")
        return netns

    def give_public(self, name: str, address: str) -> None:
        """Give a machine an additional public address."""
        ip("addr", "add", f"{address}/32", "dev", "eth0", netns=self.netns(name))
        self._operate("route", "replace", f"{address}/32", "dev", "br0")

    def take_public(self, address: str) -> None:
        with suppress(RuntimeError):
            self._operate("route", "del", f"{address}/32", "dev", "br0")

    def admit(self, wanted: set[tuple[str, int]]) -> None:
        """Let laptops reach these public addresses and TCP ports, and no others."""
        for verb, rules in (("add", wanted - self._admitted), ("del", self._admitted - wanted)):
            for address, port in rules:
                match = ("to", f"{address}/32", "ipproto", "tcp", "dport", port)
                self._operate("rule", verb, "pref", 100, *match, "lookup", "main")
        self._admitted = set(wanted)

    def set_link(self, name: str, *, up: bool) -> None:
        """Pull out a machine's network cable, or plug it in."""
        self._operate("link", "set", self._wires[name], "up" if up else "down")

    def netns(self, name: str) -> str:
        return f"{self._prefix}{name}"

    def remove(self, name: str) -> None:
        """Remove the namespace of a machine or laptop."""
        remove(self.netns(name))
        with suppress(RuntimeError):  # the other end of the cable was removed with the namespace
            self._operate("link", "del", self._wires.pop(name))

    def close(self) -> None:
        for name in list(self._wires):
            self.remove(name)
        remove(self.operator)

    def _wired(self, name: str) -> tuple[str, str]:
        self._made += 1
        netns, wire = self.netns(name), f"wire{self._made}"
        ip("netns", "add", netns)
        ip("link", "set", "lo", "up", netns=netns)
        ip("link", "add", "eth0", "netns", netns, "type", "veth", "peer", "name", wire, "netns", self.operator)
        self._wires[name] = wire
        return netns, wire

    def _operate(self, *words: object) -> None:
        ip(*words, netns=self.operator)
