"""Time a judge's client against a local server that fails now and then, and the same items from the cache.

    python tests/bench/bench_judge.py                              # 1,000 items, then 30,000 from the cache; a minute
    python tests/bench/bench_judge.py --items 200 --cached 2000

The server runs in a process of its own. It answers every 20th request with 429 and a Retry-After of 50 ms, and 2 % of the
items at first with no JSON, half of them again when asked to repair it. Own cost is the CPU time of the client's process,
everything but the server and the import of the SDK: messages, keys, SDK, HTTP, reading, cache. Paid is what was answered
with status 200; an item or a repair that is answered twice is paid twice.
"""

import argparse
import hashlib
import json
import logging
import multiprocessing
import platform
import re
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from nbhelpers.measures.judge import Item
from nbhelpers.measures.llm_judge import EndpointJudge
from nbhelpers.models.endpoint import Endpoint
from nbhelpers.models.endpoint_client import client
from nbhelpers.models.verdict_cache import Exchange, VerdictCache
from tests.endpoints import answer, completion, serving, status

OWN, CACHED = 5.0, 10.0  # goals: milliseconds an item, seconds for 30,000 items


def chosen(content, percent):
    """Return whether an item is among so many percent, by the hash of its text."""
    return int(hashlib.sha256(content.encode()).hexdigest(), 16) % 100 < percent


def script(paid, percent=2):
    """Return how the server answers, so many percent of the items with no JSON; what is paid for is counted in `paid`."""

    def respond(n, body):
        content = body["messages"][0]["content"]
        if n % 20 == 0:
            return status(429, retry_after="0.05")
        paid[json.dumps(body["messages"])] += 1
        repair = len(body["messages"]) > 1
        broken = chosen(content, percent // 2 if repair else percent)
        return completion("I would say four." if broken else answer(body))

    return respond


def serve(pipe):
    """Serve until told to end; then send how many requests came, how many were paid, and the most for one question."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    paid = Counter()
    with serving() as server:
        server.cleared(script(paid))
        pipe.send(server.url)
        pipe.recv()
        pipe.send((len(server.bodies), paid.total(), max(paid.values())))


def items(n):
    """Return n different items of usual length."""
    text = "The reply goes on about the weeds in the garden and how to pull them. " * 20
    return [
        Item(("g1", "g2")[i % 2], f"How can I do the task number {i}? " * 4, f"{i} {text}") for i in range(n)
    ]


def judged(n, folder, concurrency=16):
    """Return (judged, missing, requests, paid, most for one question, wall s, CPU s) of judging n items at the server."""
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(theirs,))
    process.start()
    cache = VerdictCache(Path(folder) / "judge.sqlite")
    judge = EndpointJudge(Endpoint(ours.recv(), "m", "none", cache, concurrency=concurrency))
    client("http://localhost/v1", "none")  # its import, a second, is not a cost of items
    wall, cpu = time.perf_counter(), time.process_time()
    found = judge(items(n))
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    ours.send("end")
    counts = ours.recv()
    process.join()
    cache.close()
    missing = sum(verdict.value != verdict.value for verdict in found)
    return len(found) - missing, missing, *counts, wall, cpu


def from_cache(n, folder):
    """Return the wall time and CPU time in seconds of judging n items whose answers are in the cache."""
    cache = VerdictCache(Path(folder) / "full.sqlite")
    filling = Endpoint("http://localhost:9/v1", "m", "none", cache)

    async def said(client, ask, messages, cap):
        return Exchange(json.dumps({ask.task: 4, "reason": "because"}), "stop", 500, 20, 0.5, "now")

    filling._asked = said
    EndpointJudge(filling)(items(n))
    judge = EndpointJudge(Endpoint("http://localhost:9/v1", "m", "none", cache))
    wall, cpu = time.perf_counter(), time.process_time()
    found = judge(items(n))
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    cache.close()
    assert all(verdict.value == 4 for verdict in found) and judge.endpoint.sent == 0
    return wall, cpu


def processor():
    """Return the name of the processor."""
    path = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.*)", path.read_text()) if path.exists() else []
    return f"{names[0] if names else platform.processor()}, {multiprocessing.cpu_count()} cores"


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--items", type=int, default=1000)
    parser.add_argument("--cached", type=int, default=30000)
    parser.add_argument("--concurrency", type=int, default=16)
    options = parser.parse_args()
    print(processor())
    with tempfile.TemporaryDirectory() as folder:
        done, missing, requests, paid, most, wall, cpu = judged(options.items, folder, options.concurrency)
        print(f"{options.items} items: {done} judged, {missing} missing; {requests} requests, {paid} paid")
        print(f"  at most {most} answers paid for one question (goal 1: {verdict(most <= 1)})")
        own = 1000 * cpu / options.items
        print(f"  {wall:.1f} s, own cost {own:.2f} ms an item (goal {OWN:g}: {verdict(own <= OWN)})")
        wall, cpu = from_cache(options.cached, folder)
        goal = CACHED * options.cached / 30000
        print(
            f"{options.cached} items from the cache: {wall:.1f} s, {cpu:.1f} s of CPU (goal {goal:g}: {verdict(cpu <= goal)})"
        )


def verdict(met):
    """Return whether a goal is met, in a word."""
    return "met" if met else "missed"


if __name__ == "__main__":
    main()
