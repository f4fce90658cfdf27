# The service: face verification over HTTP, without torch.
# `make images` builds it as eolgul/serving, tagged with the version in pyproject.toml.

# A tag can move. To fix the base image, pass the digest that `docker buildx imagetools inspect python:3.11-slim` prints:
#   --build-arg PYTHON_IMAGE=python:3.11-slim@sha256:…
ARG PYTHON_IMAGE=python:3.11-slim
FROM ${PYTHON_IMAGE}

# One stage, not two: an environment copied from a build stage would be a new layer of gigabytes after every change of source.
# A virtual environment, because Debian's own python refuses `pip install` outside one.
ENV PATH=/opt/venv/bin:$PATH \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PYTHONUNBUFFERED=1
# The user is a number, so that Kubernetes can check that it is not root. Its group is 0 and may write the home directory,
# so that clusters that choose the number themselves (OpenShift) work too.
RUN python3.11 -m venv /opt/venv \
    && useradd --uid 10001 --gid 0 --create-home --home-dir /home/eolgul eolgul \
    && chmod -R g=u /home/eolgul
WORKDIR /app

# Dependencies first, with an empty package in place of ours: the layer is reused while only our source changes. The empty
# package is removed, and build/ with it, because setuptools would install newer files there instead of ours.
# No apt packages: the wheels contain every library they load except libstdc++ and zlib, which the base image has.
COPY pyproject.toml constraints.txt ./
RUN mkdir -p src/eolgul && touch src/eolgul/__init__.py README.md LICENSE NOTICE \
    && pip install --no-cache-dir -c constraints.txt ".[serve]" \
    && rm -rf build src README.md LICENSE NOTICE
COPY README.md LICENSE NOTICE ./
COPY src src
COPY serving serving
COPY components components
COPY pipelines pipelines
RUN pip install --no-cache-dir --no-deps --force-reinstall .

# EOLGUL_WAIT: a container that starts before its model, its store or its keys waits for them; /readyz says for what.
# Telemetry is off. The service writes only below /var/cache (models; BentoML's state, through XDG_CACHE_HOME) and /tmp: with
# these two mounted, the root file system can be read-only.
ENV BENTOML_DO_NOT_TRACK=True \
    EOLGUL_WAIT=true \
    ORT_DISABLE_TELEMETRY=1 \
    EOLGUL_S3_CACHE=/var/cache/eolgul/s3 \
    XDG_CACHE_HOME=/var/cache
RUN mkdir -p /var/cache/eolgul && chown 10001:0 /var/cache/eolgul && chmod g=u /var/cache/eolgul

USER 10001
EXPOSE 3000
# Healthy means that the service can answer: /readyz is 503 until the model is loaded. Kubernetes uses its own probes instead.
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:3000/readyz', timeout=4)"]
# `eolgul serve` starts BentoML as a child process, passes SIGTERM on and waits for its end. Other settings are EOLGUL_* variables.
ENTRYPOINT ["eolgul", "serve"]
CMD ["--host", "0.0.0.0", "--port", "3000"]
