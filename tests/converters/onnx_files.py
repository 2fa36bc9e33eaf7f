"""The frameworks' networks as ONNX, by their own exporters."""
import warnings

# of PyTorch: keywords of torch.onnx.export
TORCH = {
    "torchscript": {"dynamo": False},
    "torchscript-opset9": {"dynamo": False, "opset_version": 9},
    "torchscript-unfolded": {"dynamo": False, "do_constant_folding": False, "training": "PRESERVE"},
    "torchscript-batch": {"dynamo": False, "opset_version": 13, "input_names": ["image"],
                          "dynamic_axes": {"image": {0: "batch"}}},
    "torchscript-sizes": {"dynamo": False, "input_names": ["image"],
                          "dynamic_axes": {"image": {0: "batch", 2: "height", 3: "width"}}},
    "dynamo": {"dynamo": True, "external_data": True},  # its default: weights in FORM.onnx.data
    "dynamo-opset18": {"dynamo": True, "opset_version": 18},
    "dynamo-unoptimised": {"dynamo": True, "optimize": False},
    "dynamo-batch": {"dynamo": True, "dynamic_shapes": ({0: "batch"},)},
}
# of Keras: None for its own export; else tf2onnx's opset, and whether the input then has its channels first
KERAS = {"keras": None, "tf2onnx-opset9": (9, False), "tf2onnx-opset18": (18, False),
         "tf2onnx-channels-first": (15, True)}


def save_onnx(model, inputs, out, forms):
    """out/FORM.onnx for each of `forms`, of TORCH or of KERAS as the model is; `inputs`: (N, 3, H, W)."""
    for form in forms:
        path = str(out / f"{form}.onnx")
        if form in TORCH:
            _export_torch(model, inputs, path, **TORCH[form])
        elif KERAS[form] is None:
            model(inputs[:1].transpose(0, 2, 3, 1))  # it exports no model that never ran
            model.export(path, format="onnx", verbose=False)
        else:
            _export_keras(model, path, *KERAS[form])


def _export_torch(model, inputs, path, dynamo, training="EVAL", **options):
    import torch
    if dynamo:
        options = {"external_data": False, "verbose": False} | options
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the older exporter
        torch.onnx.export(model.eval(), (torch.from_numpy(inputs[:1]),), path, dynamo=dynamo,
                          training=getattr(torch.onnx.TrainingMode, training), **options)


def _export_keras(model, path, opset, channels_first):
    import tensorflow as tf
    import tf2onnx
    signature = [tf.TensorSpec((None, *model.input.shape[1:]), tf.float32, name="image")]
    function = tf.function(lambda x: model(x, training=False), input_signature=signature)
    tf2onnx.convert.from_function(function, signature, opset=opset, output_path=path,
                                  inputs_as_nchw=["image"] if channels_first else None)
