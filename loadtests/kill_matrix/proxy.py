"""The proxy of the fleet: nginx in front of all replicas, set up for streams as the README tells operators to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

CONFIG = """\
daemon off; worker_processes 1; pid {directory}/nginx.pid; error_log {directory}/nginx.log warn;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy; fastcgi_temp_path {directory}/fastcgi;
  uwsgi_temp_path {directory}/uwsgi; scgi_temp_path {directory}/scgi;
  client_max_body_size 64m;
  upstream replicas {{ {servers} }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://replicas;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header Host $host;
      # A stream is passed on as it comes, and pinged more often than the read timeout: silence means that the replica is gone.
      proxy_buffering off;
      proxy_connect_timeout 1s;
      proxy_read_timeout 4s;
      # A request that a dead replica never answered may go to another: an Idempotency-Key makes that safe.
      proxy_next_upstream error timeout http_502 http_503 non_idempotent;
      proxy_next_upstream_tries 3;
    }}
  }}
}}
"""

ONE_SERVER = "server 127.0.0.1:{port} max_fails=1 fail_timeout=2s;"


def write_config(directory: Path, port: int, replica_ports: Sequence[int]) -> Path:
    """Write nginx's configuration into ``directory`` and return its path."""
    servers = " ".join(ONE_SERVER.format(port=replica) for replica in replica_ports)
    path = directory / "nginx.conf"
    path.write_text(CONFIG.format(directory=directory, servers=servers, port=port), encoding="utf-8")
    return path
