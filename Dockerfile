# Plait in a container, for CPUs and for NVIDIA GPUs from the same file:
#
#   docker build -t plait .                              CPU
#   docker build -t plait:cuda --build-arg TORCH=cuda .  GPU; run with --gpus all
#   docker run --rm -p 127.0.0.1:8000:8000 --read-only --tmpfs /tmp plait serve --insecure
#
# A model is mounted (-v DIR:/models/model:ro -e PLAIT_MODEL=/models/model) or baked in by two lines of one's own:
#   FROM plait / COPY BAGEL-7B-MoT /models/BAGEL-7B-MoT, and ENV PLAIT_MODEL=/models/BAGEL-7B-MoT.
#
# Versions come from constraints.txt. Renew the base with: docker buildx imagetools inspect python:3.11-slim-bookworm
ARG BASE=python:3.11.16-slim-bookworm@sha256:a36c24f9cbdf4fd0f52d67f0823eeac19c2028c637cecc392d97f980d4fec56b

# hadolint ignore=DL3006
FROM ${BASE} AS build
ARG TORCH=cpu
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
# The compiler makes the C kernels and Triton's module and stays behind in this stage; its version is the base's. Debian's Python has its
# headers in a package of their own.
# hadolint ignore=DL3008
RUN apt-get update -qq \
    && apt-get install -y -qq --no-install-recommends gcc libc6-dev \
    && if [ ! -e "$(python3 -c 'import sysconfig; print(sysconfig.get_paths()["include"])')/Python.h" ]; then \
        apt-get install -y -qq --no-install-recommends python3-dev; \
    fi \
    && rm -rf /var/lib/apt/lists/*
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /source
# Dependencies first: they change more rarely than the sources, and their layer is the large one.
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY deploy/install.sh deploy/
RUN PYTHON=python3 TORCH=${TORCH} deploy/install.sh /opt/plait telemetry
COPY kernels kernels
COPY model model
COPY server server
RUN /opt/plait/bin/pip install --quiet --no-deps --force-reinstall . \
    && /opt/plait/bin/python -P -m kernels.native_library \
    && if [ "${TORCH}" = cuda ]; then /opt/plait/bin/python -P -m kernels.triton_driver; fi \
    && /opt/plait/bin/pip uninstall --quiet --yes pip \
    && rm -rf /opt/plait/lib/python3*/site-packages/torch/include /opt/plait/lib/python3*/site-packages/torch/share

# hadolint ignore=DL3006
FROM ${BASE} AS server
RUN groupadd --gid 10001 plait \
    && useradd --uid 10001 --gid 10001 --create-home --shell /usr/sbin/nologin plait
COPY --from=build /opt/plait /opt/plait
ENV PATH=/opt/plait/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    PLAIT_CACHE_DIR=/tmp/plait TRITON_CACHE_DIR=/tmp/triton PLAIT_HOST=0.0.0.0 PLAIT_PORT=8000 PLAIT_METRICS_PORT=9090 PLAIT_LOG_FORMAT=json
USER 10001:10001
WORKDIR /home/plait
EXPOSE 8000 9090
# Loading a large model takes minutes; an orchestrator asks /readyz and /livez itself.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30m --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as u; u.urlopen(f'http://127.0.0.1:{os.environ[\"PLAIT_PORT\"]}/readyz', timeout=4)"]
ENTRYPOINT ["plait"]
CMD ["serve"]
