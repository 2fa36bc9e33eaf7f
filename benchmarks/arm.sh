#!/usr/bin/env bash
# The README's commands on Debian for ARM, which QEMU emulates, with one thread: the demo's checkpoint scored, compiled for
# llvm and for OpenCL and compared with MXNet, its last epoch trained again, and a first epoch. As root on Debian, after
# `make demo` and `apt-get install debootstrap qemu-user-static`; it takes an hour, and 6 GB in the folder ROOT:
#
#     benchmarks/arm.sh ROOT > arm.log
#
# The same commands with the same checkpoint on this machine: benchmarks/arm.sh / > here.log
set -euo pipefail
[ $# = 1 ] || { sed -n '2,9s/^# \?//p' "$0"; exit 2; }
cd "$(dirname "$0")/.."
root=$(realpath "$1")
export OMP_NUM_THREADS=1 LC_ALL=C.UTF-8

if [ "$root" = / ]; then
    folder=$PWD
else
    folder=/mobilenetv2
    if [ ! -d "$root$folder" ]; then
        debootstrap --arch=arm64 --variant=minbase bookworm "$root"
        cp /etc/resolv.conf "$root/etc"
        chroot "$root" apt-get install -y --no-install-recommends python3-venv make g++ libopenblas0 liblapacke \
            pocl-opencl-icd libjpeg-dev ca-certificates
        cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs"
        mkdir "$root$folder"
        git archive HEAD | tar -x -C "$root$folder"
        cp -r demo "$root$folder"
    fi
    mountpoint -q "$root/proc" || mount -t proc proc "$root/proc"
    trap 'umount "$root/proc"' EXIT
fi

inside() { echo "\$ $*"; chroot "$root" sh -c 'cd "$0" && PATH=$PWD/.venv/bin:$PATH && "$@"' "$folder" "$@" 2>&1; }

prefix=(--model-prefix demo/digits --epoch 32)
data=(--recipe digits --data-train demo/train.rec --data-val demo/val.rec)
inside make setup
inside python from_mxnet.py --list-devices
inside python eval_imagenet.py "${prefix[@]}" --data-val demo/val.rec
for target in llvm opencl; do
    inside python from_mxnet.py demo/images/val/digit7/0007.jpg "${prefix[@]}" --target "$target" --verify
done
inside sh -c 'rm -rf /tmp/digits && mkdir /tmp/digits && cp demo/digits-0031.* demo/digits-[ps]* /tmp/digits'
inside python train_imagenet.py "${data[@]}" --model-prefix /tmp/digits/digits --resume
inside python train_imagenet.py "${data[@]}" --model-prefix /tmp/digits/first --num-epochs 1
