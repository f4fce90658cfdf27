# Step 3, assemble: sources are merged, leakage is looked for, identities are split.
#   docker build -f docker/assemble.Dockerfile -t eolgul/assemble:0.2.0 .
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

# What we depend on comes first, against an empty package: this layer stays while only our source changes. The empty
# package goes again, build/ too: setuptools takes newer files there for ours.
# No apt packages: the wheels bring all they load, libgomp included, but for libstdc++ and zlib, which the base has.
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
CMD ["eolgul", "assemble", "--help"]
