# Step 1, extract: RecordIO, .bin sets and K-FACE trees become a FaceDataset.
#   docker build -f docker/extract.Dockerfile -t eolgul/extract:0.2.0 .
# KFP embeds the component's function in the pipeline; it runs kfp and eolgul (extra `pipeline`), so both are in here.

# A tag moves; for a build that never does, pin the digest that `docker buildx imagetools inspect python:3.11-slim` prints:
#   --build-arg PYTHON_IMAGE=python:3.11-slim@sha256:…
ARG PYTHON_IMAGE=python:3.11-slim
FROM ${PYTHON_IMAGE}

# One stage, not two: copied whole, the environment would be one new layer of gigabytes for every change of a line of ours.
# A virtual environment, because a base made of Debian's own python refuses `pip install` outside one.
ENV PATH=/opt/venv/bin:$PATH \
    ORT_DISABLE_TELEMETRY=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PYTHONUNBUFFERED=1
# The user is a number, so that Kubernetes can see that it is not root; its group is root's and may write its home, so that
# a cluster that picks the number itself (OpenShift) works too.
RUN python3.11 -m venv /opt/venv \
    && useradd --uid 10001 --gid 0 --create-home --home-dir /home/eolgul eolgul \
    && chmod -R g=u /home/eolgul
WORKDIR /app

# mxnet is the second reader of .rec files (`--reader mxnet`). It wants numpy < 1.24, so an environment of its own, and two
# libraries that its wheel does not bring; their versions are the base's, whose tag moves.
COPY requirements-mxnet.txt ./
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends libgomp1 libquadmath0 && rm -rf /var/lib/apt/lists/* \
    && python3.11 -m venv /opt/mxnet && /opt/mxnet/bin/pip install --no-cache-dir -r requirements-mxnet.txt \
    && /opt/mxnet/bin/python -c "import mxnet"
ENV EOLGUL_MXNET_PYTHON=/opt/mxnet/bin/python

# What we depend on comes first, against an empty package: this layer stays while only our source changes. The empty
# package goes again, build/ too: setuptools takes newer files there for ours.
# No apt packages here: the wheels bring all they load, libgomp included, but for libstdc++ and zlib, which the base has.
COPY pyproject.toml constraints.txt ./
RUN mkdir -p src/eolgul && touch src/eolgul/__init__.py README.md \
    && pip install --no-cache-dir -c constraints.txt ".[pipeline]" \
    && rm -rf build src README.md
COPY README.md ./
COPY src src
COPY serving serving
COPY components components
COPY pipelines pipelines
RUN pip install --no-cache-dir --no-deps --force-reinstall .

USER 10001
# No ENTRYPOINT: KFP's local docker runner passes its own command behind it.
CMD ["eolgul", "extract", "--help"]
