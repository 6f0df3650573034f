"""`vt serve` under good, damaged, huge and slow uploads at the same time.

    python benchmarks/serving_mixed.py MODEL CLIP [--requests 1000] [--clients 32]

Seven of ten uploads are the clip, one is cut in half, one is larger than the server accepts, and
one pauses for longer than it waits. Each must receive its status, the intact ones the answer of a
server that does nothing else; where the server is full (429) the client comes again, as it is told
to. Printed are statuses by kind, the time, and memory, open files and processes of the server
before and after.
"""

from __future__ import annotations

import argparse
import collections
import http.client
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving import port_of

EXPECTED = {"intact": 200, "cut": 422, "huge": 413, "slow": 408}
SHARES = {"intact": 7, "cut": 1, "huge": 1, "slow": 1}
MOST_MIB, PAUSE = 4, 2.0


@dataclass(frozen=True)
class Client:
    """Sends uploads of one clip to a server."""

    port: int
    clip: bytes

    def send(self, kind: str) -> tuple[int, Any]:
        """Status and answer of one upload; a full server is asked again."""
        while True:
            status, headers, body = self._slow() if kind == "slow" else self._upload(kind)
            if status != 429:
                return status, json.loads(body or b"null")
            time.sleep(float(headers["Retry-After"]))

    def _upload(self, kind: str) -> tuple[int, Mapping[str, str], bytes]:
        data = {
            "intact": self.clip,
            "cut": self.clip[: len(self.clip) // 2],
            "huge": bytes((MOST_MIB << 20) + 1),
        }[kind]
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)
        try:
            connection.request("POST", "/v1/predict", data, {"Content-Type": "video/mp4"})
            response = connection.getresponse()
            return response.status, dict(response.headers), response.read()
        except (BrokenPipeError, ConnectionResetError):
            # The server has answered and closed before it was given the whole body.
            return self._upload(kind)
        finally:
            connection.close()

    def _slow(self) -> tuple[int, Mapping[str, str], bytes]:
        """An upload that stops half way."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=300) as connection:
            head = f"POST /v1/predict HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\n"
            head += f"Content-Type: video/mp4\r\nContent-Length: {len(self.clip)}\r\n\r\n"
            connection.sendall(head.encode() + self.clip[: len(self.clip) // 2])
            response = http.client.HTTPResponse(connection)
            response.begin()
            return response.status, dict(response.headers), response.read()


def state(pid: int) -> tuple[int, int, int]:
    """Resident MiB of a process and its children, its open files, and the number of children."""
    pids = [pid]
    for task in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = task.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            pids.append(int(task.parent.name))
    pages = sum(int(Path(f"/proc/{one}/statm").read_text().split()[1]) for one in pids)
    resident = pages * os.sysconf("SC_PAGE_SIZE") >> 20
    return resident, len(os.listdir(f"/proc/{pid}/fd")), len(pids) - 1


def measure(client: Client, pid: int, requests: int, clients: int) -> bool:
    """Print what happened; whether every upload received its status and answer."""
    alone = client.send("intact")
    rng = random.Random(0)
    kinds = rng.choices(list(SHARES), list(SHARES.values()), k=requests)
    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(client.send, kinds[: requests // 5]))
        before = state(pid)
        start = time.perf_counter()
        replies = list(pool.map(client.send, kinds))
        seconds = time.perf_counter() - start
    counts: dict[str, collections.Counter[int]] = collections.defaultdict(collections.Counter)
    for kind, (status, _) in zip(kinds, replies, strict=True):
        counts[kind][status] += 1
    other = sum(
        answer["predictions"] != alone[1]["predictions"]
        for kind, (_, answer) in zip(kinds, replies, strict=True)
        if kind == "intact"
    )
    print({kind: dict(found) for kind, found in counts.items()}, f"{other} other answers")
    print(f"{seconds:.0f} s; MiB, open files, processes: {before} before, {state(pid)} after")
    return not other and all(set(found) == {EXPECTED[k]} for k, found in counts.items())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("clip", type=Path)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--clients", type=int, default=32)
    args = parser.parse_args()
    limits = ["--max-upload", str(MOST_MIB), "--upload-timeout", str(PAUSE)]
    command = [sys.executable, "-m", "vtcli", "serve", "-m", args.model, "--port", "0", *limits]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        try:
            client = Client(port_of(server), args.clip.read_bytes())
            right = measure(client, server.pid, args.requests, args.clients)
        finally:
            server.send_signal(signal.SIGTERM)
    print(f"exit code of the server {server.returncode}, {'as expected' if right else 'WRONG'}")


if __name__ == "__main__":
    main()
