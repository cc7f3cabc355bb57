# Trainers and SGLang servers on GPUs, and a router, each in an environment of its own: /opt/stare,
# /opt/sglang, /opt/router.
#
#   docker build -t megatron-stare .
#   docker build -t megatron-stare --build-arg MAX_JOBS=32 .          # compilers at once
#   docker run --gpus all --shm-size 16g -v "$PWD:/work" megatron-stare megatron-stare train ...
#
# The versions of Python packages are those of the constraints files. The image's CUDA is that of torch.
# It has no cuDNN: Transformer Engine would load that one beside torch's own, and the two do not mix.
ARG CUDA_IMAGE=nvidia/cuda:13.0.1-devel-ubuntu24.04

FROM ${CUDA_IMAGE} AS base
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
ENV DEBIAN_FRONTEND=noninteractive PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
# A compiler is needed at run time, too: Triton and SGLang build kernels for the GPU that they find.
RUN apt-get update \
    && apt-get install -y --no-install-recommends \
        bubblewrap build-essential libnuma1 ninja-build python3.12 python3.12-dev python3.12-venv \
    && rm -rf /var/lib/apt/lists/*

FROM base AS sglang
COPY constraints-sglang-gpu.txt /tmp/
RUN python3.12 -m venv /opt/sglang \
    && /opt/sglang/bin/pip install --no-deps -r /tmp/constraints-sglang-gpu.txt

FROM base AS router
COPY constraints-router.txt /tmp/
RUN python3.12 -m venv /opt/router \
    && /opt/router/bin/pip install --no-deps -r /tmp/constraints-router.txt

FROM base AS stare
ARG MAX_JOBS=4
COPY constraints.txt constraints-reasoning-gym.txt constraints-gpu.txt /tmp/
RUN python3.12 -m venv /opt/stare \
    && /opt/stare/bin/pip install --no-deps -r /tmp/constraints.txt \
    && /opt/stare/bin/pip install --no-deps -r /tmp/constraints-reasoning-gym.txt
# Built against the torch above, so not in an environment of its own; and against the NCCL and cuDNN
# that come with that torch and that it will load.
ARG NVIDIA=/opt/stare/lib/python3.12/site-packages/nvidia
RUN CPATH=${NVIDIA}/nccl/include:${NVIDIA}/cudnn/include:${NVIDIA}/cu13/include \
    MAX_JOBS=${MAX_JOBS} NVTE_FRAMEWORK=pytorch \
    /opt/stare/bin/pip install --no-deps --no-build-isolation -r /tmp/constraints-gpu.txt
WORKDIR /opt/megatron_stare
COPY pyproject.toml setup.py README.md LICENSE ./
COPY megatron_stare megatron_stare
RUN /opt/stare/bin/pip install --no-deps --no-build-isolation .

FROM base
COPY --from=sglang /opt/sglang /opt/sglang
COPY --from=router /opt/router /opt/router
COPY --from=stare /opt/stare /opt/stare
ENV PATH=/opt/stare/bin:$PATH PYTHONUNBUFFERED=1
RUN useradd --create-home --uid 10001 stare && install -d -o stare /work
USER 10001
WORKDIR /work
# A GPU that has fallen off the bus makes nvidia-smi fail.
HEALTHCHECK --interval=5m --timeout=1m CMD ["nvidia-smi", "-L"]
CMD ["megatron-stare", "--help"]
