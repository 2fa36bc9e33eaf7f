"""TensorFlow Lite files of a Keras MobileNetV2, and the networks in floating point that they hold."""
import numpy as np

from tests.converters.frameworks import import_keras, run_keras


def convert(model, form, samples) -> bytes:
    """A .tflite file. `form`: float16; weights8: 8-bit weights, activations in float32; int8: both of 8 bits, images as
    numbers; uint8_input: and images as bytes; any other: float32. `samples`: float32 (N, H, W, 3), from which the
    ranges of 8-bit activations are taken."""
    import tensorflow as tf
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    if form in ("float16", "weights8", "int8", "uint8_input"):
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if form == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if form in ("int8", "uint8_input"):
        converter.representative_dataset = lambda: ([sample[np.newaxis]] for sample in samples)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    if form == "uint8_input":
        converter.inference_input_type = converter.inference_output_type = tf.uint8
    return converter.convert()


def slim(model):
    """The same with the head of TensorFlow-Slim's files: average pooling, and a 1x1 convolution as classifier."""
    keras = import_keras()
    *_, last_map, _, dense = model.layers
    classifier = keras.layers.Conv2D(dense.units, 1)
    maps = keras.layers.AveragePooling2D(last_map.output.shape[1:3])(last_map.output)
    answers = keras.layers.Softmax()(keras.layers.Flatten()(classifier(maps)))
    classifier.set_weights([dense.kernel.numpy()[np.newaxis, np.newaxis], dense.bias.numpy()])
    return keras.Model(model.input, answers)


def symmetric(model):
    """The same with one pixel of padding on every side, as networks have that come from PyTorch."""
    keras = import_keras()

    def clone(layer):
        config = layer.get_config()
        if isinstance(layer, keras.layers.ZeroPadding2D):
            config["padding"] = 1
        return type(layer).from_config(config | ({"padding": "valid"} if layer.name == "Conv1" else {}))

    def call(layer, inputs, *others, **options):
        return layer(keras.layers.ZeroPadding2D(1)(inputs) if layer.name == "Conv1" else inputs, *others, **options)

    other = keras.models.clone_model(model, clone_function=clone, call_function=call)
    other.set_weights(model.get_weights())
    return other


def rescaling(model):
    """The same for pixels of 0..255, which it brings to -1..1 itself."""
    keras = import_keras()
    image = keras.Input(model.input.shape[1:])
    return keras.Model(image, model(keras.layers.Rescaling(1 / 127.5, -1)(image)))


def normalization(model):
    """The same for bytes, normalised as by PyTorch, each colour by numbers of its own."""
    keras = import_keras()
    image = keras.Input(model.input.shape[1:], dtype="uint8")
    normalised = keras.layers.Normalization(mean=MEAN, variance=np.square(STD))(keras.layers.Rescaling(1 / 255)(image))
    return keras.Model(image, model(normalised))


MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PIXELS = {"rescaling": rescaling, "normalization": normalization}  # take images as they are
GRAPHS = {"slim": slim, "symmetric": symmetric, **PIXELS}


def interpreter(content):
    """TensorFlow Lite's own, such that every tensor can be looked at."""
    import tensorflow as tf
    kernels = tf.lite.experimental.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    return tf.lite.Interpreter(model_content=bytes(content), experimental_preserve_all_tensors=True,
                               experimental_op_resolver_type=kernels)


def run_interpreter(content, inputs):
    """What comes before the softmax, by the interpreter; inputs (N, 3, H, W) of the type that the file takes."""
    network = interpreter(content)
    network.allocate_tensors()
    logits, = (operator["inputs"][0] for operator in network._get_ops_details() if operator["op_name"] == "SOFTMAX")
    answers = []
    for image in inputs.transpose(0, 2, 3, 1):
        network.set_tensor(network.get_input_details()[0]["index"], image[np.newaxis])
        network.invoke()
        answers.append(network.get_tensor(logits)[0])
    return np.stack(answers)


def dequantised(content) -> list:
    """[(weight, bias)] in the order of the operators, TensorFlow Lite's layouts: by what its interpreter says of scales
    and zero points. `bias` is None where a layer has none."""
    network = interpreter(content)
    details = {tensor["index"]: tensor for tensor in network.get_tensor_details()}

    def values(index):
        if index < 0:
            return None
        how, array = details[index]["quantization_parameters"], network.get_tensor(index)
        if not len(how["scales"]):
            return array
        shape = [1] * array.ndim
        shape[how["quantized_dimension"]] = -1
        return ((array.astype(np.int64) - how["zero_points"].reshape(shape)) * how["scales"].reshape(shape)).astype(
            np.float32)

    return [tuple(values(index) for index in operator["inputs"][1:]) for operator in network._get_ops_details()
            if operator["op_name"] in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")]


def put(model, layers):
    """The Keras model with the weights of `dequantised`, its BatchNorms reduced to adding the biases."""
    layers = iter(layers)
    for layer in model.layers:
        kind = type(layer).__name__
        if kind in ("Conv2D", "DepthwiseConv2D"):
            weight, bias = next(layers)
            layer.set_weights([weight.transpose(1, 2, 3, 0)])
        elif kind == "BatchNormalization":
            ones = np.ones(layer.gamma.shape, np.float32)
            layer.set_weights([ones, 0 * ones if bias is None else bias, 0 * ones, ones - np.float32(layer.epsilon)])
        elif kind == "Dense":
            weight, bias = next(layers)
            layer.set_weights([weight.T, np.zeros(len(weight), np.float32) if bias is None else bias])
    return model


def save_tflite(model, pixels, inputs, out, formats):
    """NAME.tflite and NAME-logits.npy: of files with float weights by TensorFlow Lite's interpreter, of those with
    8-bit weights by Keras with the weights that they hold, dequantised. uint8_input-numbers.npy: what the interpreter
    answers to the bytes of images, in whole numbers, before the softmax."""
    for form in formats:
        content = convert(GRAPHS[form](model) if form in GRAPHS else model, form, inputs.transpose(0, 2, 3, 1))
        (out / f"{form}.tflite").write_bytes(content)
        if form in ("float32", "float16", *GRAPHS):
            images = inputs if form not in PIXELS else pixels if form == "normalization" else pixels.astype(np.float32)
            logits = run_interpreter(content, images).reshape(len(inputs), -1)
        else:
            logits = run_keras(put(import_keras().models.clone_model(model), dequantised(content)), inputs)
        np.save(out / f"{form}-logits.npy", logits)
        if form == "uint8_input":
            np.save(out / f"{form}-numbers.npy", run_interpreter(content, pixels))
