"""A network without an outside that records what would leave: names that are looked up, and packets to other machines.

`run` starts this file as a program in network and mount namespaces of its own (`unshare`). There is loopback and nothing else:
every other address, IPv4 and IPv6, is routed to loopback, where a packet socket sees what is sent to it. The only name server
records each question and answers with an address of the outside, so that the connection that would follow is seen, too.
"""

from __future__ import annotations

import ctypes
import fcntl
import ipaddress
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

OUTSIDE = "192.0.2.1"  # TEST-NET-1 (RFC 5737): the answer to every question for an address
_SETTLE_S = 0.5


@dataclass(frozen=True, slots=True)
class Left:
    """What a command would have sent out, and how it ended."""

    status: int
    names: list[str]
    packets: list[str]
    output: str


def why_not() -> str:
    """Why this machine cannot make such a network; empty if it can."""
    if shutil.which("unshare") is None:
        return "unshare (util-linux) is missing"
    done = subprocess.run([*_unshare(), "true"], capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else f"this user may make no network namespace: {done.stderr.strip()}"


def _unshare() -> list[str]:
    return ["unshare", "--net", "--mount", *([] if os.geteuid() == 0 else ["--user", "--map-root-user"])]


def run(argv: Sequence[str], environment: Mapping[str, str], *, timeout: float) -> Left:
    """Run a command in a network that has no outside."""
    with tempfile.TemporaryDirectory(prefix="sealed-") as folder:
        record, output = Path(folder) / "record.json", Path(folder) / "output"
        whole = [*_unshare(), sys.executable, "-P", __file__, folder, *argv]
        with output.open("wb") as out:
            done = subprocess.run(
                whole,
                env=dict(environment),
                stdout=out,
                stderr=out,
                stdin=subprocess.DEVNULL,
                timeout=timeout,
                check=False,
            )
        text = output.read_text(errors="replace")
        assert record.is_file(), f"the network was not made: {text[-2000:]}"
        found = json.loads(record.read_text())
    return Left(done.returncode, found["names"], found["packets"], text)


# ---- Inside


def _make_network() -> None:
    """Loopback up, and the addresses of the whole world on it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as link:
        request = struct.pack("16sh14x", b"lo", 0x1 | 0x40)  # IFF_UP | IFF_RUNNING
        fcntl.ioctl(link, 0x8914, request)  # SIOCSIFFLAGS
    index = socket.if_nametoindex("lo")
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as netlink:
        netlink.bind((0, 0))
        for family in (socket.AF_INET, socket.AF_INET6):
            # rtmsg: no prefix, table main, protocol boot, scope host, type local; then RTA_OIF.
            scope = 254 if family == socket.AF_INET else 0
            body = struct.pack("BBBBBBBBI", family, 0, 0, 0, 254, 3, scope, 2, 0) + struct.pack("HHI", 8, 4, index)
            flags = 0x1 | 0x4 | 0x400 | 0x200  # request, ack, create, exclusive
            netlink.send(struct.pack("IHHII", 16 + len(body), 24, flags, family, 0) + body)  # RTM_NEWROUTE
            error = struct.unpack_from("i", netlink.recv(4096), 16)[0]
            if error and family == socket.AF_INET:
                raise OSError(-error, os.strerror(-error))  # a kernel without IPv6 has nothing to route


def _mount(folder: Path) -> None:
    """Names are looked up at the recorder, and /etc/hosts knows this machine only, whatever the real one says."""
    libc = ctypes.CDLL(None, use_errno=True)

    def mount(source: bytes, target: bytes, flags: int) -> None:
        if libc.mount(source, target, None, flags, None):
            raise OSError(ctypes.get_errno(), f"mount {target.decode()}")

    mount(b"none", b"/", 0x44000)  # MS_REC | MS_PRIVATE: the real machine keeps its own
    host = socket.gethostname()
    for name, text in (
        ("resolv.conf", "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n"),
        ("hosts", f"127.0.0.1 localhost {host}\n::1 localhost\n"),
        ("nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n"),
    ):
        (folder / name).write_text(text)
        target = Path("/etc") / name
        if target.exists():
            mount(str(folder / name).encode(), str(target.resolve()).encode(), 0x1000)  # MS_BIND


class Recorder:
    """The name server and the packet socket, each in a thread."""

    def __init__(self) -> None:
        self.names: set[str] = set()
        self.packets: set[str] = set()
        self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._udp.bind(("127.0.0.1", 53))
        self._tcp = socket.create_server(("127.0.0.1", 53))
        self._sniffer = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x3))  # every protocol
        for loop in (self._answer_datagrams, self._answer_streams, self._sniff):
            threading.Thread(target=loop, daemon=True).start()

    def _answer(self, question: bytes) -> bytes:
        labels, at = [], 12
        while question[at]:
            labels.append(question[at + 1 : at + 1 + question[at]].decode(errors="replace"))
            at += 1 + question[at]
        kind, end = struct.unpack_from(">H", question, at + 1)[0], at + 5
        self.names.add(".".join(labels))
        address = b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 60, 4) + socket.inet_aton(OUTSIDE) if kind == 1 else b""
        head = question[:2] + b"\x81\x80" + struct.pack(">HHHH", 1, bool(address), 0, 0)
        return head + question[12:end] + address

    def _answer_datagrams(self) -> None:
        while True:
            question, place = self._udp.recvfrom(4096)
            self._udp.sendto(self._answer(question), place)

    def _answer_streams(self) -> None:
        while True:
            link, _ = self._tcp.accept()
            with link:
                answer = self._answer(link.recv(4096)[2:])
                link.sendall(struct.pack(">H", len(answer)) + answer)

    def _sniff(self) -> None:
        while True:
            data, (_, kind, *_) = self._sniffer.recvfrom(200)
            if kind == 0x0800:
                protocol, rest, target = data[9], data[(data[0] & 15) * 4 :], ipaddress.ip_address(data[16:20])
            elif kind == 0x86DD:
                protocol, rest, target = data[6], data[40:], ipaddress.ip_address(data[24:40])
            else:
                continue
            if target.is_loopback:
                continue
            if protocol == 6 and rest[13] & 0x12 != 0x02:
                continue  # of TCP, what opens a connection; what answers it comes back from here
            name = {6: "tcp", 17: "udp", 1: "icmp", 58: "icmp"}.get(protocol, f"protocol {protocol}")
            port = f":{struct.unpack_from('>H', rest, 2)[0]}" if protocol in (6, 17) else ""
            self.packets.add(f"{name} {target}{port}")


def _inside(folder: Path, argv: Sequence[str]) -> int:
    _make_network()
    _mount(folder)
    recorder = Recorder()
    status = subprocess.run(argv, check=False).returncode
    time.sleep(_SETTLE_S)  # what was sent last is still on its way to the recorder
    found = {"names": sorted(recorder.names), "packets": sorted(recorder.packets)}
    (folder / "record.json").write_text(json.dumps(found))
    return status


if __name__ == "__main__":
    sys.exit(_inside(Path(sys.argv[1]), sys.argv[2:]))
