# The service: face verification over HTTP, without torch.
# `make images` builds it as eolgul/serving, tagged with the version in pyproject.toml. docker/README.md has the arguments.

# A tag can move. To fix the base image, pass the digest that `docker buildx imagetools inspect python:3.11-slim` prints:
#   --build-arg PYTHON_IMAGE=python:3.11-slim@sha256:…
ARG PYTHON_IMAGE=python:3.11-slim
FROM ${PYTHON_IMAGE} AS base

# Everything up to "This image" is the same in all Dockerfiles, so that one builder makes these layers once and a node holds them once.
# A virtual environment, because Debian's own python refuses `pip install` outside one; without pip, which is the base image's and
# installs into it (PIP_PYTHON).
# The user is a number, so that Kubernetes can check that it is not root. Its group is 0 and may write the home directory, and HOME is
# set, so that clusters that choose the number themselves (OpenShift) work too. Caches are below /tmp: the root may be read-only.
ENV PATH=/opt/venv/bin:$PATH \
    HOME=/home/eolgul \
    XDG_CACHE_HOME=/tmp/cache \
    EOLGUL_S3_CACHE=/tmp/cache/eolgul/s3 \
    ORT_DISABLE_TELEMETRY=1 \
    BENTOML_DO_NOT_TRACK=True \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_PYTHON=/opt/venv/bin/python \
    PYTHONUNBUFFERED=1
RUN python3.11 -m venv --without-pip /opt/venv \
    && useradd --uid 10001 --gid 0 --create-home --home-dir /home/eolgul eolgul \
    && chmod -R g=u /home/eolgul
WORKDIR /home/eolgul

# Dependencies first, with an empty package in place of ours: the layers are reused while only our source changes. Files are mounted
# while a command runs and are not left behind. No apt packages: the wheels contain every library they load except libstdc++ and zlib,
# which the base image has.
RUN --mount=type=bind,source=pyproject.toml,target=/in/pyproject.toml \
    --mount=type=bind,source=constraints.txt,target=/in/constraints.txt \
    mkdir -p /tmp/empty/src/eolgul && cp /in/pyproject.toml /tmp/empty/ \
    && touch /tmp/empty/src/eolgul/__init__.py /tmp/empty/README.md /tmp/empty/LICENSE /tmp/empty/NOTICE \
    && pip install --no-cache-dir -c /in/constraints.txt "/tmp/empty" \
    && rm -rf /tmp/empty

# ---- This image
FROM base
RUN --mount=type=bind,source=pyproject.toml,target=/in/pyproject.toml \
    --mount=type=bind,source=constraints.txt,target=/in/constraints.txt \
    mkdir -p /tmp/empty/src/eolgul && cp /in/pyproject.toml /tmp/empty/ \
    && touch /tmp/empty/src/eolgul/__init__.py /tmp/empty/README.md /tmp/empty/LICENSE /tmp/empty/NOTICE \
    && pip install --no-cache-dir -c /in/constraints.txt "/tmp/empty[serve]" \
    && rm -rf /tmp/empty

# The service writes only below /var/cache (models; BentoML's state, through XDG_CACHE_HOME) and /tmp: with these two mounted, the root
# file system can be read-only. EOLGUL_WAIT: a container that starts before its model, its store or its keys waits for them; /readyz
# says for what.
ENV EOLGUL_WAIT=true \
    EOLGUL_S3_CACHE=/var/cache/eolgul/s3 \
    XDG_CACHE_HOME=/var/cache
RUN mkdir -p /var/cache/eolgul && chown 10001:0 /var/cache/eolgul && chmod g=u /var/cache/eolgul

RUN --mount=type=bind,target=/in \
    cp -R /in /tmp/source && pip install --no-cache-dir --no-deps --force-reinstall /tmp/source && rm -rf /tmp/source
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="eolgul/serving" \
      org.opencontainers.image.description="The service: face verification over HTTP, without torch." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION"

USER 10001
EXPOSE 3000
# Healthy means that the service can answer: /readyz is 503 until the model is loaded. Kubernetes uses its own probes instead.
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:3000/readyz', timeout=4)"]
# `eolgul serve` starts BentoML as a child process, passes SIGTERM on and waits for its end. Other settings are EOLGUL_* variables.
ENTRYPOINT ["eolgul", "serve"]
CMD ["--host", "0.0.0.0", "--port", "3000"]
