# The service: verify and embed over HTTP, no torch.
#   docker build -f docker/serving.Dockerfile -t eolgul/serving:0.2.0 .

# A tag moves; for a build that never does, pin the digest that `docker buildx imagetools inspect python:3.11-slim` prints:
#   --build-arg PYTHON_IMAGE=python:3.11-slim@sha256:…
ARG PYTHON_IMAGE=python:3.11-slim
FROM ${PYTHON_IMAGE}

# One stage, not two: copied whole, the environment would be one new layer of gigabytes for every change of a line of ours.
# A virtual environment, because a base made of Debian's own python refuses `pip install` outside one.
ENV PATH=/opt/venv/bin:$PATH \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PYTHONUNBUFFERED=1
# The user is a number, so that Kubernetes can see that it is not root; its group is root's and may write its home, so that
# a cluster that picks the number itself (OpenShift) works too.
RUN python3.11 -m venv /opt/venv \
    && useradd --uid 10001 --gid 0 --create-home --home-dir /home/eolgul eolgul \
    && chmod -R g=u /home/eolgul
WORKDIR /app

# What we depend on comes first, against an empty package: this layer stays while only our source changes. The empty
# package goes again, build/ too: setuptools takes newer files there for ours.
# No apt packages: the wheels bring all they load, libgomp included, but for libstdc++ and zlib, which the base has.
COPY pyproject.toml constraints.txt ./
RUN mkdir -p src/eolgul && touch src/eolgul/__init__.py README.md \
    && pip install --no-cache-dir -c constraints.txt ".[serve]" \
    && rm -rf build src README.md
COPY README.md ./
COPY src src
COPY serving serving
COPY components components
COPY pipelines pipelines
RUN pip install --no-cache-dir --no-deps --force-reinstall .

# ONNX Runtime's telemetry is off. All that the service writes goes below /var/cache/eolgul (models; BentoML's
# state, by XDG_CACHE_HOME) and /tmp: with these two mounted the root file system can be read-only.
ENV BENTOML_DO_NOT_TRACK=True \
    ORT_DISABLE_TELEMETRY=1 \
    EOLGUL_S3_CACHE=/var/cache/eolgul/s3 \
    XDG_CACHE_HOME=/var/cache
RUN mkdir -p /var/cache/eolgul && chown 10001:0 /var/cache/eolgul && chmod g=u /var/cache/eolgul

USER 10001
EXPOSE 3000
# Healthy means that it can answer: 503 until the model is loaded. Kubernetes ignores this and has probes of its own.
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:3000/readyz', timeout=4)"]
# `eolgul serve` starts BentoML as its child, passes SIGTERM on to it and waits for its end. The rest of the settings come from EOLGUL_*.
ENTRYPOINT ["eolgul", "serve"]
CMD ["--host", "0.0.0.0", "--port", "3000"]
