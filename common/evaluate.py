"""Score a network so that every image counts once."""
from common.find_mxnet import mx


def metrics(top_k: int, num_classes: int):
    """Top-1 and top-`top_k` accuracy (top-`num_classes`, where there are fewer)."""
    return [mx.metric.Accuracy()] + (
        [mx.metric.TopKAccuracy(top_k=min(top_k, num_classes))] if top_k > 1 and num_classes > 1 else [])


def score(module, images, metric) -> int:
    """Feed all of `images` (a DataIter) to `module`, update `metric`, return the number of images counted.

    The images that fill up the last batch are left out of the count.
    """
    images.reset()
    metric.reset()
    count = 0
    for batch in images:
        module.forward(batch, is_train=False)
        kept = batch.data[0].shape[0] - (batch.pad or 0)
        metric.update([label[:kept] for label in batch.label], [output[:kept] for output in module.get_outputs()])
        count += kept
    return count
