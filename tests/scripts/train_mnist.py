"""A script in the form that MXNet's train_mnist.py has: a network and a data loader of its own."""
import argparse

import mxnet as mx
import numpy as np

from common import fit


def get_mnist_iter(args, kv):
    """Two classes, which the sum of a half tells apart."""
    assert kv.rank == 0 and kv.num_workers == 1
    rng = np.random.RandomState(args.seed)
    images = rng.uniform(0, 1, (110, 1, 28, 28)).astype(np.float32)
    labels = (images[:, :, :14].sum((1, 2, 3)) > images[:, :, 14:].sum((1, 2, 3))).astype(np.float32)
    return (mx.io.NDArrayIter(images[:80], labels[:80], args.batch_size, shuffle=True),
            mx.io.NDArrayIter(images[80:], labels[80:], args.batch_size))


def get_symbol(num_classes, **kwargs):
    net = mx.sym.Flatten(mx.sym.Variable("data"))
    net = mx.sym.FullyConnected(net, num_hidden=16, name="fc1")
    net = mx.sym.BatchNorm(net, fix_gamma=False, name="bn1")
    net = mx.sym.Activation(net, act_type="relu")
    net = mx.sym.FullyConnected(net, num_hidden=num_classes, name="fc2")
    return mx.sym.SoftmaxOutput(net, name="softmax")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="train mnist", formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--num-classes", type=int, default=2)
    parser.add_argument("--num-examples", type=int, default=80)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--image-shape", default="1, 28, 28")
    fit.add_fit_args(parser)
    parser.set_defaults(network="mlp", batch_size=16, num_epochs=3, lr=0.05, lr_step_epochs="10", disp_batches=2)
    args = parser.parse_args()
    sym = get_symbol(**vars(args))
    seen = []
    measured = fit.fit(args, sym, get_mnist_iter, batch_end_callback=[
        mx.callback.Speedometer(args.batch_size, 2), lambda param: seen.append((param.epoch, param.nbatch))])
    print("batches", len(seen), "top-1", round(measured.get("validation", {}).get("top-1", 0), 3))
