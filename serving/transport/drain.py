"""Graceful shutdown of a worker: from SIGTERM to exit without losing a request."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import os
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterable
from types import FrameType

import uvicorn

logger = logging.getLogger("eolgul.drain")

# Seconds for events under way when a phase ends: a handshake, or a request on a connection just accepted.
SETTLE_S = 0.3
_QUEUE_S = 5.0  # longest wait for connections that the kernel holds for a busy worker

# From Linux's asm-generic/socket.h, filter.h and tcp.h; Python has no names for them.
_SO_ATTACH_FILTER, _SO_DETACH_FILTER = 26, 27
_TCP_INFO_QUEUED = 24  # tcp_info.tcpi_unacked: of a listening socket, the connections that wait for accept
_NO_SYN = (
    (0x30, 0, 0, 13),  # load the byte of TCP flags
    (0x54, 0, 0, 0x12),  # keep SYN and ACK
    (0x15, 0, 1, 0x02),  # SYN alone asks for a new connection:
    (0x06, 0, 0, 0),  # drop it
    (0x06, 0, 0, 0xFFFFFFFF),  # pass everything else, so handshakes under way complete
)


class Drain:
    """Shuts one worker down in four steps, so that every accepted request is answered.

    1. For `seconds`, requests are still accepted while `draining` is true: /readyz answers 503 and answers close their
       connection (`eolgul.serving.transport.middleware`), so that load balancers and clients turn to another replica.
    2. New connections are blocked, and those that the kernel has already completed are accepted.
    3. The listening socket is shut down, in every process that holds it: new clients are refused. Closing it
       is not enough: the supervisor holds it too, so the kernel would complete connections that nobody accepts and
       reset them at the end.
    4. uvicorn's own handler ends the server once every accepted request is answered. It closes idle connections, as
       HTTP allows a server to do at any time.

    SIGTERM ends the whole service, since its workers share the socket. A second SIGTERM skips the rest of step 1, and a
    service that is not ready skips all of it: no load balancer sends it anything.
    """

    def __init__(self, seconds: float, ready: Callable[[], bool]) -> None:
        self._seconds, self._ready = seconds, ready
        self._hurry = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.draining = False

    def install(self) -> None:
        """Handle SIGTERM before uvicorn's handler does. Call this in the main thread, in the running loop.

        Does nothing in another thread or if the handler is not that of a server (a test that calls the application).
        """
        if threading.current_thread() is not threading.main_thread():
            return
        handler = signal.getsignal(signal.SIGTERM)
        server = getattr(handler, "__self__", None)
        if not callable(handler) or not isinstance(server, uvicorn.Server):
            logger.warning("SIGTERM is not handled by uvicorn: requests under way may be lost at the end")
            return
        loop = asyncio.get_running_loop()

        def begin(signum: int, frame: FrameType | None) -> None:
            loop.call_soon_threadsafe(self._begin, server, lambda: handler(signum, None))

        signal.signal(signal.SIGTERM, begin)

    def _begin(self, server: uvicorn.Server, end: Callable[[], object]) -> None:
        if self._task is not None:
            self._hurry.set()
            return
        self.draining = True
        self._task = asyncio.get_running_loop().create_task(self._run(server, end))

    async def _run(self, server: uvicorn.Server, end: Callable[[], object]) -> None:
        seconds = self._seconds if self._ready() else 0.0
        logger.info("draining: requests are accepted for another %g s", seconds)
        try:
            if seconds:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._hurry.wait(), seconds)
            await _refuse_connections(getattr(server, "servers", ()))  # absent before the server has started
            await asyncio.sleep(SETTLE_S)
        except Exception:  # the process must end whatever failed
            logger.exception("the listening socket could not be shut down")
        finally:
            logger.info("draining: new connections are refused, finishing %d", len(server.server_state.connections))
            end()


async def _refuse_connections(servers: Iterable[asyncio.Server]) -> None:
    """Accept the completed connections, then shut the listening sockets of `servers` down for all processes."""
    listeners = [
        (server, socket.socket(fileno=os.dup(listening.fileno())))
        for server in servers
        for listening in server.sockets  # empty if the server is already closed
    ]
    for _, listening in listeners:
        _block_new(listening)
    await asyncio.sleep(SETTLE_S)
    deadline = time.monotonic() + _QUEUE_S
    while any(_count_queued(listening) for _, listening in listeners) and time.monotonic() < deadline:
        await asyncio.sleep(0.02)
    for server, listening in listeners:
        server.close()  # before the shutdown: accepting from a socket that is shut down fails
        try:
            listening.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # another worker was first
        finally:
            _unblock_new(listening)  # a supervisor that reloads listens on this socket again
            listening.close()


def _block_new(listening: socket.socket) -> None:
    """Make the kernel drop requests for new connections; a client repeats its request a second later, and is refused.

    Without this (on other systems than Linux, on a Unix socket) a connection completed at the last moment may be reset.
    """
    if sys.platform != "linux" or listening.family not in (socket.AF_INET, socket.AF_INET6):
        return
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in _NO_SYN))
    filter_ = struct.pack("HL", len(_NO_SYN), ctypes.addressof(program))
    try:
        listening.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, filter_)
    except OSError as error:
        logger.warning("new connections cannot be blocked: %s", error.strerror)


def _unblock_new(listening: socket.socket) -> None:
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # no filter is attached
            listening.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)


def _count_queued(listening: socket.socket) -> int:
    """Number of completed connections that no process has accepted yet; 0 if the system does not tell."""
    if sys.platform != "linux" or listening.family not in (socket.AF_INET, socket.AF_INET6):
        return 0
    info = listening.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_QUEUED + 4)
    return int(struct.unpack_from("I", info, _TCP_INFO_QUEUED)[0])
