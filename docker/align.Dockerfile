# Step 2, align: MTCNN finds the face, which is cut out at 112×112.
# `make images` builds it as eolgul/align, tagged with the version in pyproject.toml. docker/README.md has the arguments.
# ONNX Runtime runs MTCNN's networks, which torch exports while the image is built: it is not in the image.
# KFP puts the component's function into the compiled pipeline. The function needs kfp and eolgul, so both are installed.

# A tag can move. To fix the base image, pass the digest that `docker buildx imagetools inspect python:3.11-slim` prints:
#   --build-arg PYTHON_IMAGE=python:3.11-slim@sha256:…
ARG PYTHON_IMAGE=python:3.11-slim

# ---- What builds, and stays behind: pip and setuptools, pinned, and strip. Everything up to "This image" is
# the same in all Dockerfiles, so that one builder makes these layers once and a node holds them once. INPUTS is a hash of the files
# that are mounted while a command runs: not every builder looks at those to decide whether a layer is made anew.
FROM ${PYTHON_IMAGE} AS pip
ARG INPUTS=
# hadolint ignore=DL3008,DL4006,SC2046
RUN --mount=type=bind,source=constraints.txt,target=/in/constraints.txt \
    apt-get update && apt-get install -y --no-install-recommends binutils && rm -rf /var/lib/apt/lists/* \
    && python3.11 -m venv /opt/tools \
    && mkdir /opt/tools/strip && cp /usr/bin/strip $(ldd /usr/bin/strip | grep -Eo '/[^ ]+lib(bfd|sframe|zstd)[^ ]+') /opt/tools/strip \
    && /opt/tools/bin/pip install --no-cache-dir -c /in/constraints.txt pip \
    && /opt/tools/bin/pip install --no-cache-dir -c /in/constraints.txt cyclonedx-bom setuptools wheel

# buildah 1.28 mounts nothing of a stage that comes from its cache as a whole, so it gets another time for a last step.
FROM pip AS tools
ARG NOW=
RUN : "$NOW"

FROM pip AS build
ARG SOURCE=
RUN --mount=type=bind,target=/in \
    cp -R /in /tmp/source \
    && SOURCE_DATE_EPOCH=1767225600 /opt/tools/bin/pip wheel --no-cache-dir --no-deps --no-index --no-build-isolation \
    --wheel-dir /opt/wheel /tmp/source

FROM build AS wheel
ARG NOW=
RUN : "$NOW"

FROM ${PYTHON_IMAGE} AS base
# The user is a number, so that Kubernetes can check that it is not root. Its group is 0 and may write the home directory, and HOME is
# set, so that clusters that choose the number themselves (OpenShift) work too. Caches are below /tmp: the root may be read-only.
# A virtual environment, because Debian's own python refuses installation outside one; without pip, and without the base image's.
ENV PATH=/opt/venv/bin:$PATH \
    HOME=/home/eolgul \
    XDG_CACHE_HOME=/tmp/cache \
    EOLGUL_S3_CACHE=/tmp/cache/eolgul/s3 \
    ORT_DISABLE_TELEMETRY=1 \
    BENTOML_DO_NOT_TRACK=True \
    PYTHONUNBUFFERED=1
RUN python3.11 -m venv --without-pip /opt/venv \
    && rm -rf /usr/local/lib/python3.11/site-packages /usr/local/lib/python3.11/ensurepip /usr/local/bin/pip* \
    && useradd --uid 10001 --gid 0 --no-log-init --create-home --home-dir /home/eolgul eolgul \
    && chmod -R g=u /home/eolgul
WORKDIR /home/eolgul

# Dependencies before our source: their layers are reused while only the source changes. Files are mounted while a command runs and are
# not left behind. No apt packages: the wheels contain every library they load except libstdc++ and zlib, which the base image has.
FROM base AS common
ARG INPUTS=
RUN --mount=type=bind,from=tools,source=/opt/tools,target=/opt/tools \
    --mount=type=bind,source=pyproject.toml,target=/in/pyproject.toml \
    --mount=type=bind,source=constraints.txt,target=/in/constraints.txt \
    --mount=type=bind,source=docker/install.py,target=/in/install.py \
    /opt/tools/bin/python /in/install.py /opt/venv --extras detect

FROM common AS steps
RUN --mount=type=bind,from=tools,source=/opt/tools,target=/opt/tools \
    --mount=type=bind,source=pyproject.toml,target=/in/pyproject.toml \
    --mount=type=bind,source=constraints.txt,target=/in/constraints.txt \
    --mount=type=bind,source=docker/install.py,target=/in/install.py \
    /opt/tools/bin/python /in/install.py /opt/venv --extras component

# ---- MTCNN's networks, exported by torch; nothing else of this stage goes into the image
FROM steps AS detector
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN --mount=type=bind,from=tools,source=/opt/tools,target=/opt/tools \
    --mount=type=bind,source=pyproject.toml,target=/in/pyproject.toml \
    --mount=type=bind,source=constraints.txt,target=/in/constraints.txt \
    --mount=type=bind,source=requirements-nodeps.txt,target=/in/requirements-nodeps.txt \
    --mount=type=bind,source=docker/install.py,target=/in/install.py \
    /opt/tools/bin/python /in/install.py /opt/venv --extras train --torch-index "$TORCH_INDEX" \
    --no-deps "$(grep '^facenet-pytorch==' /in/requirements-nodeps.txt)"
ARG SOURCE=
RUN --mount=type=bind,from=wheel,source=/opt/wheel,target=/in/wheel \
    PYTHONPATH="$(echo /in/wheel/*.whl)" python -c "from pathlib import Path; from eolgul.faces.networks import export_onnx; export_onnx(Path('/opt/detector'))"

# ---- This image
FROM steps
COPY --from=detector /opt/detector /opt/detector
ENV EOLGUL_DETECTOR=/opt/detector

ARG SOURCE=
RUN --mount=type=bind,from=tools,source=/opt/tools,target=/opt/tools \
    --mount=type=bind,from=wheel,source=/opt/wheel,target=/in/wheel \
    --mount=type=bind,source=constraints.txt,target=/in/constraints.txt \
    --mount=type=bind,source=docker/install.py,target=/in/install.py \
    /opt/tools/bin/python /in/install.py /opt/venv --wheel /in/wheel
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
