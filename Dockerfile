# Training on NVIDIA GPUs; the driver is the host's, through NVIDIA's Container Toolkit:
#
#   docker build -t mobilenetv2 .
#   docker run --gpus all -it -v ~/imagenet:/data mobilenetv2
#
# Linted, not built: no Docker was there.
FROM python:3.11-slim

# Debian's own versions will do: they only compile native/
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends g++ make libjpeg-dev && rm -rf /var/lib/apt/lists/*

WORKDIR /mobilenetv2
COPY . .
RUN PIP_NO_CACHE_DIR=1 make setup MXNET=mxnet-cu117==1.9.1
ENV PATH=/mobilenetv2/.venv/bin:$PATH
CMD ["bash"]
