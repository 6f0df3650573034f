"""Throughput of uploads to `vt serve` against a bulk run over the same files.

    python benchmarks/serving.py MODEL CLIP [--copies 40] [--clients 32] [--rounds 2] [--random]

The bulk run is in this process, the server in one of its own, with the same weights and settings;
they take turns. The clients are threads of this process, so that they share the cores with the
server, and each waits for its response. Printed are wall time, CPU time of the server with its
decoders, CPU time of the clients, and wall and CPU time of the bulk run with its decoders, per
video. `--random` as in bulk.py.
"""

from __future__ import annotations

import argparse
import http.client
import os
import queue
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

from bulk import bulk, random_file

from vtcli.inference.join import RunRequest
from vtcli.inference.predictor import PredictSettings


def cpu_seconds(pid: int, children: bool) -> float:
    """CPU time of a process and of its children that have ended, or also of those that run."""
    ticks = 0
    for task in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = task.read_text().rpartition(")")
        except OSError:
            continue
        fields = rest.split()
        if pid == int(name.split()[0]):
            ticks += sum(map(int, fields[11:15]))
        elif children and pid == int(fields[1]):
            ticks += sum(map(int, fields[11:13]))
    return ticks / os.sysconf("SC_CLK_TCK")


def port_of(server: subprocess.Popen[str]) -> int:
    """The port of a server, as soon as it serves."""
    assert server.stderr is not None
    line = next(line for line in server.stderr if "serving at" in line)
    port = urlsplit(line.split()[3].rstrip(";")).port
    assert port is not None
    return port


def upload(port: int, data: bytes) -> None:
    """One request, sent again where the server is full."""
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
        connection.request("POST", "/v1/predict", data, {"Content-Type": "video/mp4"})
        response = connection.getresponse()
        response.read()
        connection.close()
        if response.status == 200:
            return
        assert response.status == 429, response.status
        time.sleep(float(response.headers["Retry-After"]))


def upload_all(port: int, data: bytes, copies: int, clients: int) -> None:
    """All requests, from so many threads."""
    left: queue.SimpleQueue[int] = queue.SimpleQueue()
    for number in range(copies):
        left.put(number)

    def work() -> None:
        while True:
            try:
                left.get_nowait()
            except queue.Empty:
                return
            upload(port, data)

    threads = [threading.Thread(target=work) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def compare(
    server: subprocess.Popen[str], request: RunRequest, paths: list[str], args: argparse.Namespace
) -> list[tuple[float, ...]]:
    """Per round: wall and CPU time of the server, CPU time of the clients, both of the bulk run."""
    port = port_of(server)
    data = args.clip.read_bytes()
    for _ in range(2):
        upload(port, data)
    rates = []
    for number in range(args.rounds):
        start = time.perf_counter()
        own, served = cpu_seconds(os.getpid(), False), cpu_seconds(server.pid, True)
        upload_all(port, data, len(paths), args.clients)
        wall = time.perf_counter() - start
        after = cpu_seconds(os.getpid(), False)
        own, served = after - own, cpu_seconds(server.pid, True) - served
        bulk_wall, _ = bulk(request, paths, number)
        bulk_cpu = cpu_seconds(os.getpid(), False) - after
        rates.append((wall, served, own, bulk_wall, bulk_cpu))
        print([round(1000 * one / len(paths)) for one in rates[-1]], "ms per video", flush=True)
    return rates


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("clip", type=Path)
    parser.add_argument("--copies", type=int, default=40)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("-b", "--batch-size", type=int)
    parser.add_argument("--random", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        paths = [str(folder / f"{n:05}{args.clip.suffix}") for n in range(args.copies)]
        for path in paths:
            os.symlink(args.clip.resolve(), path)
        model = random_file(args.model, folder / "m.safetensors") if args.random else args.model
        more = ["-b", str(args.batch_size)] if args.batch_size else []
        command = [sys.executable, "-m", "vtcli", "serve", "-m", model, "--port", "0", *more]
        request = RunRequest(folder, model, PredictSettings(batch_size=args.batch_size))
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
            try:
                rates = compare(server, request, paths, args)
            finally:
                server.send_signal(signal.SIGTERM)
    walls = [bulk_wall / wall for wall, _, _, bulk_wall, _ in rates]
    cpus = [bulk_cpu / served for _, served, _, _, bulk_cpu in rates]
    print(f"serve / bulk: wall {statistics.median(walls):.2f}, CPU {statistics.median(cpus):.2f}")


if __name__ == "__main__":
    main()
