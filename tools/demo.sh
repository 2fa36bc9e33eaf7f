#!/bin/sh
# The main job on a small set of real images, with the commands that ImageNet takes: pack, train in three stages, as
# the published weights were (the scale narrows), evaluate, compile for OpenCL.
set -e
: "${PYTHON:=python}"

run() {
    echo
    echo "\$ python $*"
    "$PYTHON" "$@"
}

train() {
    run train_imagenet.py --multiplier 0.25 --num-classes 10 --image-shape 3,48,48 \
        --data-train demo/train.rec --data-val demo/val.rec --batch-size 32 \
        --random-mirror 0 --max-random-h 0 --max-random-s 0 --max-random-l 0 \
        --model-prefix demo/digits --save-period 100 "$@"
}

run tools/make_digits.py demo
train --lr 0.02 --num-epochs 16
train --lr 0.02 --load-epoch 16 --num-epochs 24 --max-random-scale 0.6
train --lr 0.005 --load-epoch 24 --num-epochs 32 --max-random-scale 0.535
run eval_imagenet.py --model-prefix demo/digits --epoch 32 --image-shape 3,48,48 --data-val demo/val.rec
image=$(ls demo/images/val/digit7/*.jpg | head -n 1)
run from_mxnet.py "$image" --model-prefix demo/digits --epoch 32 --image-shape 3,48,48 --synset demo/synset.txt --verify
