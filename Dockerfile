# `sememe serve` on a CPU.  From the root of the repository:
#
#     docker build --build-arg TORCH_INDEX=<package index of PyTorch's CPU wheels> --tag sememe .
#
# Two stages: the compiler and the sources stay behind.  The Python is the one that the suite runs with.
FROM python:3.11-slim AS build
ARG TORCH_INDEX
RUN apt-get update && apt-get install --yes --no-install-recommends g++ make && rm -rf /var/lib/apt/lists/*
RUN test -n "$TORCH_INDEX" || { echo "give --build-arg TORCH_INDEX=..., the index of PyTorch's CPU wheels:" \
    "the default build of torch brings several GB of CUDA packages" >&2; exit 1; }
WORKDIR /src
COPY LICENSE MANIFEST.in Makefile README.md pyproject.toml setup.py ./
COPY requirements requirements
COPY sememe sememe
RUN make setup VENV=/opt/sememe LOCK=requirements/server.txt EDITABLE= PYTHON=python3
# The account below may not write here: without bytecode, each start would compile torch anew.
RUN /opt/sememe/bin/python -m compileall -q /opt/sememe/lib

FROM python:3.11-slim
RUN useradd --uid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin sememe \
    && install --directory --owner sememe /models /keys
COPY --from=build /opt/sememe /opt/sememe
ENV PATH=/opt/sememe/bin:$PATH PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1
USER 10001
EXPOSE 8000
# Not ready while it drains or opens a model; a store that is down does not make it unready, since lists go on.
HEALTHCHECK --interval=5s --timeout=3s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/v1/ready', timeout=2)"]
ENTRYPOINT ["sememe"]
CMD ["serve", "/models", "--host", "0.0.0.0", "--keys", "/keys/keys.json"]
