"""A script in the form that MXNet's train_cifar10.py has: keywords of other networks, 28 pixels, a step schedule."""
import argparse
import sys

from common import data, find_mxnet, fit  # noqa: F401

folder = sys.argv.pop(1)

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="train cifar10",
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    fit.add_fit_args(parser)
    data.add_data_args(parser)
    data.add_data_aug_args(parser)
    data.set_data_aug_level(parser, 2)
    parser.set_defaults(network="mobilenetv2", num_layers=110, data_train=f"{folder}/val.rec",
                        data_val=f"{folder}/val.rec", num_classes=2, num_examples=103, image_shape="3,28,28",
                        pad_size=4, batch_size=50, num_epochs=300, lr=0.05, lr_step_epochs="200,250")
    args = parser.parse_args()
    assert isinstance(args.image_shape, str) and isinstance(args.rgb_mean, str) and isinstance(args.gpus, str)
    from importlib import import_module
    net = import_module("symbols." + args.network)
    sym = net.get_symbol(**vars(args))
    fit.fit(args, sym, data.get_rec_iter)
