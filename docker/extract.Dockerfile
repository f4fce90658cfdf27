# Step 1, extract: from RecordIO, .bin sets and K-FACE trees to a FaceDataset.
# `make images` builds it as eolgul/extract, tagged with the version in pyproject.toml.
# torch and MTCNN's networks are for `--aligned` only, which looks whether faces lie where the template has them.
# KFP puts the component's function into the compiled pipeline. The function needs kfp and eolgul, so both are installed.

# A tag can move. To fix the base image, pass the digest that `docker buildx imagetools inspect python:3.11-slim` prints:
#   --build-arg PYTHON_IMAGE=python:3.11-slim@sha256:…
ARG PYTHON_IMAGE=python:3.11-slim
FROM ${PYTHON_IMAGE}

# One stage, not two: an environment copied from a build stage would be a new layer of gigabytes after every change of source.
# A virtual environment, because Debian's own python refuses `pip install` outside one.
ENV PATH=/opt/venv/bin:$PATH \
    ORT_DISABLE_TELEMETRY=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PYTHONUNBUFFERED=1
# The user is a number, so that Kubernetes can check that it is not root. Its group is 0 and may write the home directory,
# so that clusters that choose the number themselves (OpenShift) work too.
RUN python3.11 -m venv /opt/venv \
    && useradd --uid 10001 --gid 0 --create-home --home-dir /home/eolgul eolgul \
    && chmod -R g=u /home/eolgul
WORKDIR /app

# mxnet is the second reader of .rec files (`--reader mxnet`). It needs numpy < 1.24, therefore its own environment, and two
# libraries that its wheel does not contain. Their versions are those of the base image.
COPY requirements-mxnet.txt ./
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends libgomp1 libquadmath0 && rm -rf /var/lib/apt/lists/* \
    && python3.11 -m venv /opt/mxnet && /opt/mxnet/bin/pip install --no-cache-dir -r requirements-mxnet.txt \
    && /opt/mxnet/bin/python -c "import mxnet"
ENV EOLGUL_MXNET_PYTHON=/opt/mxnet/bin/python

# Dependencies first, with an empty package in place of ours: the layer is reused while only our source changes. The empty
# package is removed, and build/ with it, because setuptools would install newer files there instead of ours.
# No apt packages here: the wheels contain every library they load except libstdc++ and zlib, which the base image has.
COPY pyproject.toml constraints.txt requirements-nodeps.txt ./
RUN mkdir -p src/eolgul && touch src/eolgul/__init__.py README.md LICENSE NOTICE \
    && pip install --no-cache-dir -c constraints.txt ".[train,pipeline]" \
    && pip install --no-cache-dir --no-deps "$(grep '^facenet-pytorch==' requirements-nodeps.txt)" \
    && rm -rf build src README.md LICENSE NOTICE
COPY README.md LICENSE NOTICE ./
COPY src src
COPY serving serving
COPY components components
COPY pipelines pipelines
RUN pip install --no-cache-dir --no-deps --force-reinstall .

USER 10001
# No ENTRYPOINT: KFP's local docker runner passes its own command, which would follow it.
CMD ["eolgul", "extract", "--help"]
