"""Scripts in the form of the original's and of MXNet's examples, which people bring, run as they are."""
import os
import re
import subprocess
import sys

import numpy as np
import pytest

from common import data, fit
from common.base.arguments import ArgumentParser
from common.base.errors import InputError
from common.checkpoint.params import load_params
from common.find_mxnet import mx
from tests.conftest import ROOT

SCRIPTS = ROOT / "tests" / "scripts"


@pytest.fixture
def folder(packed, tmp_path):
    """A folder with val.rec and val.idx."""
    for ending in ("rec", "idx"):
        os.symlink(f"{packed}.{ending}", tmp_path / f"val.{ending}")
    return tmp_path


def run(script, *arguments, status=0):
    """What a script printed, anywhere."""
    done = subprocess.run([sys.executable, SCRIPTS / script, *map(str, arguments)], text=True, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == status, done.stdout
    return done.stdout


def test_the_originals_train_places(folder):
    run("train_places.py", folder)
    log = (folder / "places.log").read_text()
    assert "Epoch[0] Validation-accuracy=" in log and "top_k_accuracy_5" not in log  # of two classes
    assert (folder / "places-0001.params").exists() and (folder / "places-symbol.json").exists()
    again = run("train_places.py", folder, status=1).strip().splitlines()[-1]
    assert again.startswith("error: --model-prefix") and "--resume" in again
    assert "1 of 1 epochs" in run("train_places.py", folder, "--resume")


def test_mxnets_train_cifar10(folder):
    """28 pixels, whose last map is 1x1; a keyword of other networks is named once."""
    log = run("train_cifar10.py", folder, "--num-epochs", 1)
    assert len(re.findall("num_layers=110", log)) == 1 and "0.05 x 0.1 at 200,250" in log
    assert "Epoch[0] Validation-accuracy=" in log and "as stored x 1-1, crop 28" in log
    refused = run("train_cifar10.py", folder, "--network", "resnet", status=2).strip().splitlines()
    assert len(refused) == 1 and "resnet" in refused[0] and "mobilenetv2" in refused[0]


def test_a_network_and_a_data_loader_of_ones_own(tmp_path):
    """An iterator that can only be reset is resumed at the ends of epochs, and ends with the weights of one run."""
    printed = run("train_mnist.py", "--model-prefix", tmp_path / "once")
    assert printed.count("NDArrayIter has no seek") == 1 and "Validation-accuracy" in printed
    assert printed.strip().splitlines()[-1].startswith("batches 15 top-1 ")
    assert len(re.findall(r"Epoch\[0\] Batch \[0-2\]\tSpeed", printed)) == 2  # ours, and MXNet's Speedometer
    assert not (tmp_path / "once-preprocess.json").exists()
    for epochs in (1, 3):
        run("train_mnist.py", "--model-prefix", tmp_path / "twice", "--num-epochs", epochs, "--resume")
    for ending in ("params", "optimizer"):
        assert (tmp_path / f"once-0003.{ending}").stat().st_size == (tmp_path / f"twice-0003.{ending}").stat().st_size


def test_mxnets_fine_tune(checkpoint, folder):
    """A new classifier on the layers of a checkpoint, as fine-tune.py builds it; at rate 0 the others stay."""
    parser = ArgumentParser()
    for add in (fit.add_fit_args, data.add_data_args, data.add_data_aug_args):
        add(parser)
    parser.set_defaults(image_shape="3,32,32", num_classes=2, num_epochs=1, lr=0.0, batch_size=50,
                        data_train=f"{folder}/val.rec", model_prefix=f"{folder}/x")
    symbol, arg_params, aux_params = mx.model.load_checkpoint(str(checkpoint), 0)
    net = mx.sym.FullyConnected(symbol.get_internals()["flatten_output"], num_hidden=2, name="fc1")
    net = mx.sym.SoftmaxOutput(net, name="softmax")
    kept = {name: array for name, array in arg_params.items() if "fc" not in name}
    fit.fit(parser.parse_args([]), net, data.get_rec_iter, arg_params=kept, aux_params=aux_params)
    saved = load_params(folder / "x-0001.params")
    assert saved["arg:fc1_weight"].shape[0] == 2
    for name, array in kept.items():
        np.testing.assert_array_equal(saved[f"arg:{name}"], array.asnumpy(), err_msg=name)
    with pytest.raises(InputError, match="fc1_bias.*leave it out"):
        fit.fit(parser.parse_args(["--overwrite", "1"]), net, data.get_rec_iter,
                arg_params={**kept, "fc1_bias": mx.nd.zeros(3)}, aux_params=aux_params)


class Seekable(mx.io.DataIter):
    """Batches of numbers that depend on epoch and batch alone; described by plain tuples, without a length."""

    def __init__(self):
        super().__init__(8)
        self.provide_data, self.provide_label = [("data", (8, 4))], [("softmax_label", (8,))]
        self._epoch = self._batch = 0

    def seek(self, epoch, batch):
        self._epoch, self._batch = epoch, batch

    def reset(self):
        self.seek(0, 0)

    def next(self):
        if self._batch == 5:
            raise StopIteration
        rng = np.random.default_rng((self._epoch, self._batch))
        self._batch += 1
        data = rng.normal(size=(8, 4))
        return mx.io.DataBatch([mx.nd.array(data)], [mx.nd.array(data[:, 0] > 0)], pad=0)


def test_an_iterator_that_seeks_is_resumed_inside_an_epoch(tmp_path):
    """To the same weights, bit for bit, as a run that was not interrupted."""
    net = mx.sym.SoftmaxOutput(mx.sym.FullyConnected(mx.sym.Variable("data"), num_hidden=2, name="fc"), name="softmax")
    parser = ArgumentParser()
    fit.add_fit_args(parser)

    def train(name, *flags, **options):
        fit.fit(parser.parse_args(["--num-epochs", "3", "--batch-size", "8", "--save-every", "1e-9", "--model-prefix",
                                   f"{tmp_path}/{name}", *flags]), net, lambda args, kv: (Seekable(), None), **options)

    def stop(param):
        if (param.epoch, param.nbatch) == (1, 3):
            raise KeyboardInterrupt
    train("once")
    with pytest.raises(KeyboardInterrupt):
        train("twice", batch_end_callback=stop)
    assert (tmp_path / "twice-0001-b00002.params").exists()
    train("twice", "--resume")
    for ending in ("params", "optimizer"):
        assert (tmp_path / f"once-0003.{ending}").read_bytes() == (tmp_path / f"twice-0003.{ending}").read_bytes()
