"""The configuration files of what stands round the replicas: nginx in front, Prometheus beside."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path


def nginx_configuration(directory: Path, port: int, replicas: Sequence[str], *, by_prefix: bool) -> str:
    """Return nginx's configuration: requests go by load, or those that name their prefix to where it is cached.

    ``replicas`` are addresses such as ``127.0.0.1:8001``. Answers are not buffered. A replica that is going (503) or gone has begun
    nothing, so another one takes the request. None is set aside for having failed once: right after a restart it would be the only one.
    """
    servers = "\n".join(f"        server {replica} max_fails=0;" for replica in replicas)
    by_key = '""      by_load;\n        default by_prefix;' if by_prefix else "default by_load;"
    return f"""
worker_processes 1;
daemon off;
pid {directory}/nginx.pid;
error_log {directory}/nginx-error.log warn;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    upstream by_load {{
        least_conn;
{servers}
    }}
    upstream by_prefix {{
        hash $http_x_prefix_key consistent;
{servers}
    }}
    map $http_x_prefix_key $replicas {{
        {by_key}
    }}
    server {{
        listen 127.0.0.1:{port};
        client_max_body_size 40m;
        location / {{
            proxy_pass http://$replicas;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_buffering off;
            proxy_read_timeout 900s;
            proxy_connect_timeout 2s;
            proxy_next_upstream error timeout http_503 non_idempotent;
            proxy_next_upstream_tries {len(replicas) + 1};
        }}
    }}
}}
"""


def prometheus_configuration(targets: Sequence[str]) -> str:
    """Return Prometheus' configuration (JSON is YAML): every replica scraped once a second."""
    scrape = {"job_name": "plait", "scrape_interval": "1s", "static_configs": [{"targets": list(targets)}]}
    return json.dumps({"scrape_configs": [scrape]})
