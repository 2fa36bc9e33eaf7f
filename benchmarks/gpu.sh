#!/usr/bin/env bash
# What a machine with an NVIDIA GPU shows, in 8 minutes at most: its OpenCL devices; the network on it against MXNet;
# latency at batch 1 and 16 beside ONNX Runtime and PyTorch on CUDA, if FRAMEWORKS, a Python, has them; tuning for some
# minutes; the same again with what that found, and in float16. After make setup:
#
#     FRAMEWORKS=python3 benchmarks/gpu.sh models/imagenet1k-mnetv2-1_0 gpu-results
#
# The folder then holds what each step printed and its tables; the records of tuning are in tuning/. A step that fails
# or takes too long is named at the end, and the others go on. For a checkpoint of another epoch than 0 set EPOCH; where
# there is no GPU, SLOWER=4 gives each step four times as long.
set -uo pipefail
[ $# = 2 ] || { sed -n '2,10s/^# \?//p' "$0"; exit 2; }
out=$(mkdir -p "$2" && cd "$2" && pwd) || exit 1
prefix=$(realpath "$1")
cd "$(dirname "$0")/.." || exit 1
python=$PWD/.venv/bin/python
frameworks=$(command -v "${FRAMEWORKS:-python3}")
network=(--model-prefix "$prefix" --epoch "${EPOCH:-0}")
failed=()

# step NAME SECONDS COMMAND...: tune.py keeps what it has found until its time is over
step() {
    echo "== $1: ${*:3}" | tee "$out/$1.log"
    timeout --kill-after 5 $(($2 * ${SLOWER:-1})) "${@:3}" < /dev/null 2>&1 | tee -a "$out/$1.log" || failed+=("$1")
}

latency() {
    step "$1" "$2" "$python" benchmarks/inference.py "${network[@]}" --rounds 8 --starts 1 --frameworks "$frameworks" \
        --out "$out/$1.csv" --chart "$out/$1.png" --contenders "${@:3}"
}

cuda=()
has() { "$frameworks" -c "$1" 2> /dev/null; }
has 'import onnxruntime; assert "CUDAExecutionProvider" in onnxruntime.get_available_providers()' &&
    cuda+=(onnxruntime-cuda)
has 'import safetensors, torch, torchvision; assert torch.cuda.is_available()' &&
    cuda+=(pytorch-cuda pytorch-frozen-cuda)
echo "Beside TVM: ${cuda[*]:-nothing, since $frameworks has no framework with CUDA}"

command -v nvidia-smi > /dev/null && step driver 10 nvidia-smi
step devices 20 "$python" from_mxnet.py --list-devices
step verify 90 "$python" from_mxnet.py data/cat.jpg "${network[@]}" --verify --repeat 20
latency untuned 110 mxnet tvm-opencl "${cuda[@]}"
step tune 120 "$python" tools/tune.py --target opencl "${network[@]}" --trials 16 --batch-size 1 16 --resume
latency tuned 90 mxnet tvm-opencl-tuned
step float16 40 "$python" from_mxnet.py data/cat.jpg "${network[@]}" --precision float16 --repeat 20
echo "Done: $out${failed[*]:+; failed or out of time: ${failed[*]}}"
