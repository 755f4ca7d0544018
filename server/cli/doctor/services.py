"""What lies outside the process: the cache directory, the ports to listen on, the key file, and the store that other replicas share."""

from __future__ import annotations

import errno
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import redis

from server.access.keys import BadKeys, KeyRing
from server.cli.cache_directory import REMEDY, why_not_writable
from server.cli.doctor.finding import Finding, fault, fine, warning
from server.front import listening_socket

CONNECT_TIMEOUT_S = 3.0
MIN_REDIS = (7, 0)
MAX_SKEW_S = 1.0
"""Leases are judged by the store's clock; a replica whose clock is further off misjudges its own."""
SLOW_PING_S = 0.005
NUM_PINGS = 9
KEEPING_POLICY = "noeviction"


def check_cache(directory: Path) -> Finding:
    """See whether what is computed once can be kept."""
    reason = why_not_writable(directory)
    return fine("cache", f"{directory.expanduser()} can be written") if reason is None else warning("cache", reason, REMEDY)


def check_port(host: str, port: int, option: str = "port") -> Finding:
    """See whether the address can be listened on whose port ``--option`` names."""
    try:
        with listening_socket(host, port) as listener:
            return fine(option, f"{host}:{listener.getsockname()[1]} is free")
    except OSError as error:
        is_port = error.errno in (errno.EADDRINUSE, errno.EACCES)
        remedy = f"--{option} 0 takes a free one" if is_port else "an address of this machine; 0.0.0.0 is every one"
        return fault(option, f"cannot listen on {host} port {port}: {error.strerror or 'no such address'}", remedy)


def check_keys(path: Path) -> Finding:
    """See whether the key file can be used."""
    try:
        KeyRing.from_file(path)
    except BadKeys as error:
        return fault("keys", str(error), "plait key NAME makes an entry; plait key --help shows the file")
    return fine("keys", f"{path} can be read")


def check_store(url: str) -> Iterator[Finding]:
    """Look at a Redis as its replicas would: there, new enough, quick, and keeping what it is given."""
    try:
        client = redis.Redis.from_url(url, socket_connect_timeout=CONNECT_TIMEOUT_S, socket_timeout=CONNECT_TIMEOUT_S)
    except ValueError as error:
        yield fault("store", f"not the address of a Redis: {error}", "--store redis://host:6379/0")
        return
    try:
        with client:
            yield from _judge(client)
    except (redis.RedisError, OSError) as error:
        yield fault("store", f"unreachable: {error}", "start Redis, or correct the address, the password or the network policy")


def _judge(client: redis.Redis) -> Iterator[Finding]:
    latency = statistics.median(_ping_s(client) for _ in range(NUM_PINGS))
    facts = client.info()
    version = str(facts["redis_version"])
    if tuple(int(part) for part in version.split(".")[:2]) < MIN_REDIS:
        yield fault("store", f"Redis {version} is too old: streams need 7.0", "a newer Redis")
        return
    slow = latency > SLOW_PING_S
    says = f"Redis {version} answers in {1000 * latency:.1f} ms"
    yield warning("store", f"{says}: every event waits for it", "a Redis in the same zone") if slow else fine("store", says)
    yield _judge_policy(str(facts["maxmemory_policy"]), int(facts["maxmemory"]))
    yield _judge_persistence(bool(facts["aof_enabled"]), client)
    skew = abs(_server_time(client) - time.time())
    if skew > MAX_SKEW_S:
        yield warning("clock", f"this clock and the store's differ by {skew:.1f} s", "run NTP on both")


def _judge_policy(policy: str, max_bytes: int) -> Finding:
    if policy == KEEPING_POLICY:
        return fine("store policy", f"{policy}: the store refuses rather than forgets")
    when = f"at {max_bytes:,} bytes" if max_bytes else "as soon as maxmemory is set"
    says = f"maxmemory-policy is {policy}: {when} the store throws away streams that are still being answered"
    return fault("store policy", says, "redis-cli CONFIG SET maxmemory-policy noeviction")


def _judge_persistence(has_log: bool, client: redis.Redis) -> Finding:
    if has_log or client.config_get("save").get("save"):
        return fine("store persistence", "append-only file" if has_log else "snapshots")
    return warning("store persistence", "nothing is written to disk: a restart of Redis loses every stream", "appendonly yes")


def _ping_s(client: redis.Redis) -> float:
    started = time.perf_counter()
    client.ping()
    return time.perf_counter() - started


def _server_time(client: redis.Redis) -> float:
    seconds, microseconds = client.time()
    return float(seconds) + float(microseconds) / 1e6
