#!/bin/sh
# The main job on a small set of real images, with the commands that ImageNet takes: pack, train by a recipe in three
# stages (the scale narrows, as in the published runs), evaluate, compile for OpenCL.
set -e
: "${PYTHON:=python}"
export OMP_NUM_THREADS=1  # or the last bits of sums, and so the weights, would depend on the number of cores

run() {
    echo
    echo "\$ python $*"
    "$PYTHON" "$@"
}

run tools/make_digits.py demo
run train_imagenet.py --recipe digits --data-train demo/train.rec --data-val demo/val.rec --model-prefix demo/digits \
    --overwrite 1
run eval_imagenet.py --model-prefix demo/digits --epoch 32 --data-val demo/val.rec
image=$(ls demo/images/val/digit7/*.jpg | head -n 1)
run from_mxnet.py "$image" --model-prefix demo/digits --epoch 32 --verify
