# Step 2, align: MTCNN finds the face, which is cut out at 112×112.
# `make images` builds it as eolgul/align, tagged with the version in pyproject.toml. docker/README.md has the arguments.
# ONNX Runtime runs MTCNN's networks, which torch exports while the image is built: it is not in the image.
# KFP puts the component's function into the compiled pipeline. The function needs kfp and eolgul, so both are installed.

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

# ---- MTCNN's networks, exported by torch; nothing else of this stage goes into the image
FROM base AS detector
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN --mount=type=bind,source=pyproject.toml,target=/in/pyproject.toml \
    --mount=type=bind,source=constraints.txt,target=/in/constraints.txt \
    --mount=type=bind,source=requirements-nodeps.txt,target=/in/requirements-nodeps.txt \
    mkdir -p /tmp/empty/src/eolgul && cp /in/pyproject.toml /tmp/empty/ \
    && touch /tmp/empty/src/eolgul/__init__.py /tmp/empty/README.md /tmp/empty/LICENSE /tmp/empty/NOTICE \
    && if [ -n "$TORCH_INDEX" ]; then pip install --no-cache-dir -c /in/constraints.txt --index-url "$TORCH_INDEX" torch torchvision; fi \
    && pip install --no-cache-dir -c /in/constraints.txt "/tmp/empty[train]" \
    && pip install --no-cache-dir --no-deps "$(grep '^facenet-pytorch==' /in/requirements-nodeps.txt)" \
    && rm -rf /tmp/empty
RUN --mount=type=bind,target=/in \
    cp -R /in /tmp/source && pip install --no-cache-dir --no-deps --force-reinstall /tmp/source && rm -rf /tmp/source \
    && python -c "from pathlib import Path; from eolgul.faces.networks import export_onnx; export_onnx(Path('/opt/detector'))"

FROM base AS steps
RUN --mount=type=bind,source=pyproject.toml,target=/in/pyproject.toml \
    --mount=type=bind,source=constraints.txt,target=/in/constraints.txt \
    mkdir -p /tmp/empty/src/eolgul && cp /in/pyproject.toml /tmp/empty/ \
    && touch /tmp/empty/src/eolgul/__init__.py /tmp/empty/README.md /tmp/empty/LICENSE /tmp/empty/NOTICE \
    && pip install --no-cache-dir -c /in/constraints.txt "/tmp/empty[pipeline]" \
    && rm -rf /tmp/empty

# ---- This image
FROM steps
RUN --mount=type=bind,source=pyproject.toml,target=/in/pyproject.toml \
    --mount=type=bind,source=constraints.txt,target=/in/constraints.txt \
    mkdir -p /tmp/empty/src/eolgul && cp /in/pyproject.toml /tmp/empty/ \
    && touch /tmp/empty/src/eolgul/__init__.py /tmp/empty/README.md /tmp/empty/LICENSE /tmp/empty/NOTICE \
    && pip install --no-cache-dir -c /in/constraints.txt "/tmp/empty[detect]" \
    && rm -rf /tmp/empty
COPY --from=detector /opt/detector /opt/detector
ENV EOLGUL_DETECTOR=/opt/detector

RUN --mount=type=bind,target=/in \
    cp -R /in /tmp/source && pip install --no-cache-dir --no-deps --force-reinstall /tmp/source && rm -rf /tmp/source
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="eolgul/align" \
      org.opencontainers.image.description="Step 2, align: MTCNN finds the face, which is cut out at 112×112." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION"

USER 10001
# No ENTRYPOINT: KFP's local docker runner passes its own command, which would follow it.
CMD ["eolgul", "align", "--help"]
