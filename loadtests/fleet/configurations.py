"""The configuration files of what stands round the replicas: nginx in front, Prometheus beside."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

NGINX = """\
daemon off; worker_processes 1; pid {directory}/nginx.pid; error_log {directory}/nginx-error.log warn;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy; fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi; scgi_temp_path {directory}/scgi;
    upstream by_load {{ least_conn; {servers} }}
    upstream by_prefix {{ hash $http_x_prefix_key consistent; {servers} }}
    map $http_x_prefix_key $replicas {{ "" by_load; default {keyed}; }}
    server {{
        listen 127.0.0.1:{port};
        client_max_body_size 64m;
        location / {{
            proxy_pass http://$replicas;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $http_host;
            # A stream is passed on as it comes, and pinged more often than the read timeout: silence means that the replica is gone.
            proxy_buffering off;
            proxy_connect_timeout 1s;
            proxy_read_timeout {silence_s:g}s;
            # What a replica that is going (503) or gone never answered may go to another: it has begun nothing.
            proxy_next_upstream error timeout http_502 http_503 non_idempotent;
            proxy_next_upstream_tries {tries};
        }}
    }}
}}
"""


@dataclass(frozen=True, slots=True)
class Proxy:
    """How nginx spreads requests, and when it believes that a replica is gone.

    ``by_prefix``: those that name their prefix go where it is cached, all others to the replica with fewest connections. ``silence_s``:
    an answer without a byte for so long is given up. ``shun_s``: a replica that failed once gets nothing for so long; 0 asks it at once,
    since right after a restart it may be the only one.
    """

    by_prefix: bool = True
    silence_s: float = 900.0
    shun_s: float = 0.0


def nginx_configuration(directory: Path, port: int, replica_ports: Sequence[int], proxy: Proxy) -> str:
    """Return nginx's configuration, set up for streams as the documentation tells operators to."""
    failing = f"max_fails=1 fail_timeout={proxy.shun_s:g}s" if proxy.shun_s else "max_fails=0"
    return NGINX.format(
        directory=directory,
        port=port,
        servers=" ".join(f"server 127.0.0.1:{replica} {failing};" for replica in replica_ports),
        keyed="by_prefix" if proxy.by_prefix else "by_load",
        silence_s=proxy.silence_s,
        tries=len(replica_ports) + 1,
    )


def prometheus_configuration(ports: Sequence[int], rules: Path | None) -> str:
    """Return Prometheus' configuration (JSON is YAML): every replica scraped once a second."""
    targets = [f"127.0.0.1:{port}" for port in ports]
    scrape = {"job_name": "plait", "scrape_interval": "1s", "static_configs": [{"targets": targets}]}
    return json.dumps({"rule_files": [str(rules)] if rules else [], "scrape_configs": [scrape]})
