"""Fine-tuned classifiers as people make them of Keras's MobileNetV2, in each of Keras's file formats.

    .venv-converters/bin/python -m tests.converters.keras_forms --keras 2 --height 96 --width 160 --out FOLDER

writes FOLDER/FORM.h5, .keras and .weights.h5, of random weights, for each of FORMS; FORM.npy, what Keras answers to
pixels.npy, uint8 (2, 3, height, width) RGB, probabilities or, of LOGITS, what comes before; and the files of REFUSED.

    .venv-converters/bin/python -m tests.converters.keras_forms --load FILE --photos FOLDER --out FOLDER

answers, with a complete model, the first 60 photographs under FOLDER, stretched to the model's size: input.npy and
answers.npy; and saves the model as model.keras and model.tflite, in float32.

    .venv-converters/bin/python -m tests.converters.keras_forms --expected tests/converters/expected

makes the small files anew that tests without Keras are held against: real ones, without their weights. Also with
--keras 2, and so under a Python with tensorflow-cpu==2.13.1.
"""
import argparse
import json
import lzma
import os
from pathlib import Path

import numpy as np

from tests.converters.keras_skeleton import blank, drawn, fill
from tests.converters.random_weights import images

SEED = 7
FORMATS = (".h5", ".keras", ".weights.h5")
CLASSES = 5
LOGITS = ("sequential", "one_logit")
# {Keras: {form: formats}} of what tests keep; 213 is that of TensorFlow 2.13, in whose .keras things have other names
KEPT = {3: {"operators": FORMATS, "sequential": (".h5",), "normalization": (".keras",)},
        2: {"operators": FORMATS, "normalization": (".h5",)}, 213: {"operators": (".keras",)}}
KEPT_SIZE, KEPT_ALPHA = (40, 52), 0.35


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keras", type=int, choices=(2, 3), default=3)
    parser.add_argument("--height", type=int, default=160)
    parser.add_argument("--width", type=int, default=160)
    parser.add_argument("--alpha", type=float, default=1.0)
    parser.add_argument("--forms", nargs="*")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--load", type=Path)
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--expected", type=Path)
    args = parser.parse_args()
    keras = import_keras(args.keras)
    if args.load:
        return answer_photos(keras, args.load, args.photos, args.out)
    if args.expected:
        return write_expected(keras, args.keras, args.expected)
    args.out.mkdir(parents=True, exist_ok=True)
    pixels = images(max(args.height, args.width), SEED)[:, :, :args.height, :args.width]
    np.save(args.out / "pixels.npy", pixels)
    for name, make in (FORMS | REFUSED).items():
        if args.forms and name not in args.forms:
            continue
        keras.backend.clear_session()
        model = make(Parts(keras, (args.height, args.width), args.alpha))
        randomise(model)
        for form in FORMATS if name in FORMS else (".h5", ".keras"):
            save(model, args.out / f"{name}{form}")
        if name in FORMS:
            np.save(args.out / f"{name}.npy", predict(model, pixels, name not in PREPARED))


def import_keras(version):
    """Keras 3, or the Keras of TensorFlow 2: tf_keras, or keras itself where that is as old."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if version == 3:
        import keras
        return keras
    try:
        import tf_keras as keras
    except ImportError:
        import keras
    return keras


class Parts:
    """What the forms are made of."""

    def __init__(self, keras, size, alpha):
        self.keras, self.layers, self.size, self.alpha = keras, keras.layers, size, alpha
        self.preprocess_input = keras.applications.mobilenet_v2.preprocess_input

    def base(self, **options):
        base = self.keras.applications.MobileNetV2(input_shape=(*self.size, 3), alpha=self.alpha, include_top=False,
                                                   weights=None, **options)
        for layer in base.layers[:100]:  # frozen, as in fine-tuning: .h5 lists the trainable weights first
            layer.trainable = False
        return base

    def augmentation(self):
        return self.keras.Sequential([self.layers.RandomFlip("horizontal"), self.layers.RandomRotation(0.2),
                                      self.layers.RandomZoom(0.1)])

    def input(self, *size):
        return self.keras.Input((*(size or self.size), 3))

    def head(self, x, units=CLASSES, activation="softmax", name=None):
        x = self.layers.GlobalAveragePooling2D()(x)
        return self.layers.Dense(units, activation, name=name)(self.layers.Dropout(0.2)(x))


def operators(p):
    """TensorFlow's tutorial: a model of layers and operators around the network."""
    inputs = p.input()
    x = p.base()(p.preprocess_input(p.augmentation()(inputs)), training=False)
    return p.keras.Model(inputs, p.head(x, name="dog_or_cat"))


def rescaling(p):
    inputs = p.input()
    x = p.layers.RandomFlip()(p.layers.Rescaling(1 / 127.5, offset=-1)(inputs))
    return p.keras.Model(inputs, p.head(p.base()(x, training=False)))


def only_scale(p):
    inputs = p.input()
    return p.keras.Model(inputs, p.head(p.base(pooling=None)(p.layers.Rescaling(1 / 255)(inputs))))


def arithmetic(p):
    inputs = p.input()
    return p.keras.Model(inputs, p.head(p.base()((inputs * 2.0 + 5.0 - 100.0) / 300.0)))


def normalization(p):
    """With statistics of data, which are arrays in the file."""
    inputs, layer = p.input(), p.layers.Normalization()
    layer.adapt(np.random.RandomState(0).uniform(0, 200, (4, *p.size, 3)).astype(np.float32))
    return p.keras.Model(inputs, p.head(p.base()(layer(inputs))))


def given_normalization(p):
    layer = p.layers.Normalization(mean=[0.485, 0.456, 0.406], variance=[0.229 ** 2, 0.224 ** 2, 0.225 ** 2])
    inputs = p.input()
    return p.keras.Model(inputs, p.head(p.base()(layer(p.layers.Rescaling(1 / 255)(inputs)))))


def sequential(p):
    return p.keras.Sequential([
        p.input(), p.layers.Rescaling(1 / 127.5, -1), p.augmentation(), p.base(), p.layers.GlobalAveragePooling2D(),
        p.layers.Dropout(0.2), p.layers.Dense(CLASSES, name="logits")])


def sequential_pooled(p):
    return p.keras.Sequential([p.base(pooling="avg"), p.layers.Dropout(0.5),
                               p.layers.Dense(CLASSES, activation="softmax", use_bias=False)])


def nested_head(p):
    """Two models, one after the other, and a softmax of its own."""
    head = p.keras.Sequential([p.layers.Dropout(0.2), p.layers.Dense(CLASSES), p.layers.Softmax()])
    return p.keras.Sequential([p.base(pooling="avg"), head])


def flat(p):
    base = p.base()
    return p.keras.Model(base.input, p.head(base.output, name="breeds"))


def keepdims(p):
    inputs = p.input()
    x = p.layers.Flatten()(p.layers.GlobalAveragePooling2D(keepdims=True)(p.base()(inputs)))
    return p.keras.Model(inputs, p.layers.Activation("softmax")(p.layers.Dense(CLASSES)(x)))


def with_top(p):
    return p.keras.applications.MobileNetV2((*p.size, 3), p.alpha, weights=None, classes=CLASSES)


def one_sigmoid(p):
    inputs = p.input()
    return p.keras.Model(inputs, p.head(p.base()(p.preprocess_input(inputs)), 1, "sigmoid"))


def one_logit(p):
    inputs = p.input()
    return p.keras.Model(inputs, p.head(p.base()(p.preprocess_input(inputs)), 1, None))


def resizing(p):
    inputs = p.input(None, None)
    x = p.layers.Rescaling(1 / 127.5, -1)(p.layers.Resizing(*p.size)(inputs))
    return p.keras.Model(inputs, p.head(p.base()(x)))


def as_in_training(p):
    """Keras 3 answers as ever; Keras 2 as in training."""
    inputs = p.input()
    return p.keras.Model(inputs, p.head(p.base()(inputs, training=True)))


FORMS = {form.__name__: form for form in (
    operators, rescaling, only_scale, arithmetic, normalization, given_normalization, sequential, sequential_pooled,
    nested_head, flat, keepdims, with_top, one_sigmoid, one_logit, resizing, as_in_training)}
# these take images that are prepared
PREPARED = ("sequential_pooled", "nested_head", "flat", "keepdims", "with_top", "as_in_training")


def two_dense(p):
    inputs = p.input()
    x = p.layers.Dense(16, "relu", name="hidden")(p.layers.GlobalAveragePooling2D()(p.base()(inputs)))
    return p.keras.Model(inputs, p.layers.Dense(CLASSES, "softmax", name="second")(x))


def max_pooling(p):
    inputs = p.input()
    x = p.layers.GlobalMaxPooling2D(name="biggest")(p.base()(inputs))
    return p.keras.Model(inputs, p.layers.Dense(CLASSES)(x))


def flattened(p):
    inputs = p.input()
    return p.keras.Model(inputs, p.layers.Dense(CLASSES)(p.layers.Flatten(name="all_of_the_map")(p.base()(inputs))))


def many_sigmoids(p):
    inputs = p.input()
    return p.keras.Model(inputs, p.head(p.base()(inputs), 4, "sigmoid", "labels"))


def mobilenet_1(p):
    inputs = p.input()
    base = p.keras.applications.MobileNet(input_shape=(*p.size, 3), include_top=False, weights=None)
    return p.keras.Model(inputs, p.head(base(inputs)))


def two_inputs(p):
    inputs, more = p.input(), p.keras.Input((7,), name="more")
    x = p.layers.Concatenate()([p.layers.GlobalAveragePooling2D()(p.base()(inputs)), more])
    return p.keras.Model([inputs, more], p.layers.Dense(CLASSES)(x))


def two_networks(p):
    inputs, base = p.input(), p.base(pooling="avg")
    x = p.layers.Concatenate(name="both")([base(inputs), base(p.layers.Rescaling(2.0)(inputs))])
    return p.keras.Model(inputs, p.layers.Dense(CLASSES)(x))


def two_outputs(p):
    inputs = p.input()
    x = p.layers.GlobalAveragePooling2D()(p.base()(inputs))
    return p.keras.Model(inputs, [p.layers.Dense(CLASSES, name="one")(x), p.layers.Dense(1, name="other")(x)])


def cut(p):
    """A part of the network."""
    base = p.base()
    return p.keras.Model(base.input, p.head(base.get_layer("block_12_add").output))


def code(p):
    inputs = p.input()
    return p.keras.Model(inputs, p.head(p.base()(p.layers.Lambda(lambda x: x / 127.5 - 1, name="my_code",
                                                                 output_shape=(*p.size, 3))(inputs))))


def bgr(p):
    """As other networks of Keras take their images."""
    inputs = p.input()
    return p.keras.Model(inputs, p.head(p.base()(p.keras.applications.resnet50.preprocess_input(inputs))))


def features(p):
    return p.base(pooling="avg")


REFUSED = {form.__name__: form for form in (
    two_dense, max_pooling, flattened, many_sigmoids, mobilenet_1, two_inputs, two_networks, two_outputs, cut,
    code, bgr, features)}


def randomise(model):
    """Weights that keep activations of one size; no BatchNorm is like another."""
    rng = np.random.RandomState(SEED)
    for layer in leaves(model):
        if type(layer).__name__ not in ("Normalization", "RandomFlip", "RandomRotation", "RandomZoom", "Dropout"):
            layer.set_weights([drawn(rng, weight) for weight in layer.get_weights()])


def leaves(model):
    for layer in model.layers:
        yield from leaves(layer) if hasattr(layer, "layers") else [layer]


def save(model, path):
    """A format that a Keras cannot write for this model is left out, with its reason."""
    try:
        (model.save_weights if path.name.endswith(".weights.h5") else model.save)(path)
    except (TypeError, ValueError, NotImplementedError) as error:
        path.unlink(missing_ok=True)
        print(f"{path.name}: {error}")


def predict(model, pixels, raw=True):
    inputs = pixels.transpose(0, 2, 3, 1).astype(np.float32)
    return np.asarray(model(inputs if raw else inputs / np.float32(127.5) - 1, training=False))


def write_expected(keras, version, folder):
    version = 213 if keras.__version__.startswith("2.13") else version
    pixels = images(max(KEPT_SIZE), SEED)[:, :, :KEPT_SIZE[0], :KEPT_SIZE[1]]
    for name, formats in KEPT[version].items():
        for form in formats:
            keras.backend.clear_session()
            model = FORMS[name](Parts(keras, KEPT_SIZE, KEPT_ALPHA))
            path = folder / f"keras_{version}_{name}{form}"
            save(model, path)
            skeleton = blank(path.read_bytes())
            path.write_bytes(fill(skeleton, SEED))
            if form == ".keras":
                model = keras.models.load_model(path)
            else:  # Keras 3 reads no complete .h5 with operators, but its weights
                model.load_weights(path)
            path.unlink()
            (folder / f"{path.name}.xz").write_bytes(lzma.compress(skeleton))
            facts = {"made by": f"python -m tests.converters.keras_forms --keras {str(version)[0]} --expected "
                                "tests/converters/expected", "versions": {"keras": keras.__version__},
                     "size": KEPT_SIZE, "seed": SEED,
                     "answers": [" ".join(f"{x:.7g}" for x in row) for row in predict(model, pixels)]}
            path.with_name(f"{path.name}.json").write_text(json.dumps(facts, indent=0) + "\n", encoding="utf-8")


def answer_photos(keras, file, photos, out):
    import tensorflow as tf
    from PIL import Image
    model = keras.models.load_model(file, compile=False)
    _, height, width, _ = model.input_shape
    paths = sorted(path for path in photos.rglob("*") if path.suffix.lower() in (".jpeg", ".jpg"))[:60]
    pixels = np.stack([np.asarray(Image.open(path).convert("RGB").resize((width, height))) for path in paths])
    inputs = keras.applications.mobilenet_v2.preprocess_input(pixels.astype(np.float32))
    np.save(out / "input.npy", inputs.transpose(0, 3, 1, 2))
    np.save(out / "answers.npy", model.predict(inputs, verbose=0))
    model.save(out / "model.keras")
    (out / "model.tflite").write_bytes(tf.lite.TFLiteConverter.from_keras_model(model).convert())


if __name__ == "__main__":
    main()
