"""A script in the form that the original's train_places.py has; the folder to work in is its first argument."""
import argparse
import logging
import os
import sys

logging.basicConfig(level=logging.DEBUG)
from common import find_mxnet, data, fit  # noqa: E402, F401, I001 - in its order
from common.util import download_file, get_gpus  # noqa: E402, F401
import mxnet as mx  # noqa: E402, F401

folder = sys.argv.pop(1)

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="train places", formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    fit.add_fit_args(parser)
    data.add_data_args(parser)
    data.add_data_aug_args(parser)
    data.set_data_aug_level(parser, 2)
    parser.set_defaults(
        network="mobilenetv2", multiplier=0.1, model_prefix=os.path.join(folder, "places"),
        data_train=os.path.join(folder, "val.rec"), data_train_idx=os.path.join(folder, "val.idx"),
        data_val=os.path.join(folder, "val.rec"), data_val_idx=os.path.join(folder, "val.idx"),
        num_classes=2, num_examples=103, image_shape="3,48,48", max_random_scale=1.0, min_random_scale=0.533,
        num_epochs=1, lr=0.045, lr_factor=0.98, lr_step_epochs=",".join(str(i) for i in range(1, 480)), wd=0.00004,
        dtype="float32", batch_size=20, gpus="", optimizer="sgd", load_epoch=None, top_k=5)
    args = parser.parse_args()
    from importlib import import_module
    net = import_module("symbols." + args.network)
    sym = net.get_symbol(num_classes=args.num_classes, multiplier=args.multiplier)
    logger = logging.getLogger()
    handler = logging.FileHandler(os.path.join(folder, "places.log"))
    handler.setLevel(logging.DEBUG)
    logger.addHandler(handler)
    fit.fit(args, sym, data.get_rec_iter, logger)
