#!/usr/bin/env python
"""Score a checkpoint on a RecordIO file: single centre crop, every image counted once. Example:

    python eval_imagenet.py --model-prefix models/imagenet1k-mnetv2-1_0 --epoch 0 --data-val val.rec
"""

from common.arguments import ArgumentParser, not_negative, positive
from common.errors import reported


def get_args_parser():
    from common.data import add_image_args

    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--model-prefix", required=True, help="PREFIX of PREFIX-symbol.json")
    parser.add_argument("--epoch", type=not_negative, required=True, help="number of PREFIX-%%04d.params")
    parser.add_argument("--data-val", required=True, help="RecordIO file of the images")
    parser.add_argument("--batch-size", type=positive, default=32, help="images in a batch")
    parser.add_argument("--top-k", type=positive, default=5, help="the second accuracy reported")
    parser.add_argument("--gpus", default="", help="GPUs to run on, as in 0,1; empty: the processor")
    add_image_args(parser)
    return parser


def main(args):
    from common.checkpoint import load_checkpoint
    from common.data import evaluation_iter
    from common.devices import contexts
    from common.evaluate import metrics, score
    from common.find_mxnet import mx

    data_shape = (args.batch_size, *args.image_shape)
    symbol, arg_params, aux_params = load_checkpoint(args.model_prefix, args.epoch, data_shape)
    num_classes = symbol.infer_shape(data=data_shape)[1][0][1]
    images = evaluation_iter(args, num_classes)

    labels = [name for name in symbol.list_arguments() if name.endswith("label")]
    module = mx.mod.Module(symbol, label_names=labels, context=contexts(args.gpus))
    module.bind(images.provide_data, images.provide_label if labels else None, for_training=False)
    module.set_params(arg_params, aux_params, allow_extra=True)
    metric = mx.metric.CompositeEvalMetric(metrics(args.top_k, num_classes))
    count = score(module, images, metric)
    top_1, *top_k = metric.get()[1]
    top_k = "".join(f" top-{min(args.top_k, num_classes)} {value:.4f}" for value in top_k)
    print(f"top-1 {top_1:.4f}{top_k} ({count} images)")


if __name__ == "__main__":
    with reported("eval_imagenet.py"):
        main(get_args_parser().parse_args())
