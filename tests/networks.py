"""An independent MobileNetV2: a forward pass in NumPy from the paper's description and the published names alone."""
import numpy as np

# seq: repeats, stride of the first block
REPEATS = (1, 2, 3, 4, 3, 3, 1)
STRIDES = {"published": (1, 2, 2, 2, 1, 2, 1), "first": (1, 2, 2, 1, 2, 2, 1)}


def forward(params, x, strides="published", padding="symmetric", repeats=REPEATS, activation="relu6"):
    """Softmax probabilities in float64. params: {published name: array}; x: (N, 3, H, W).

    A first block without parameters of an expansion has none, as the paper has it.
    """
    def unit(x, name, stride=1, most=6 if activation == "relu6" else np.inf):
        weight = params[f"{name}-conv2d_weight"].astype(np.float64)
        if weight.shape[2] == 1:
            x = np.einsum("oi,nihw->nohw", weight[:, :, 0, 0], x, optimize=True)
        else:
            x = convolution_3x3(x, weight, stride, padding)
        gamma, beta, mean, var = (params[f"{name}-batchnorm_{part}"].astype(np.float64).reshape(1, -1, 1, 1)
                                  for part in ("gamma", "beta", "moving_mean", "moving_var"))
        x = gamma * (x - mean) / np.sqrt(var + 1e-5) + beta
        return x if most is None else np.minimum(np.maximum(x, 0), most)

    x = unit(x.astype(np.float64), "first-3x3-conv", stride=2)
    for i, (blocks, stride) in enumerate(zip(repeats, STRIDES[strides])):
        for j in range(blocks):
            name = f"seq-{i}-block{j}"
            y = unit(x, f"{name}-exp") if i or f"{name}-exp-conv2d_weight" in params else x
            y = unit(y, f"{name}-depthwise", stride=stride if j == 0 else 1)
            y = unit(y, f"{name}-linear", most=None)
            x = x + y if j > 0 else y
    x = unit(x, "last-1x1-conv").mean(axis=(2, 3))
    logits = x @ params["fc_weight"].astype(np.float64).T + params["fc_bias"]
    exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponents / exponents.sum(axis=1, keepdims=True)


def convolution_3x3(x, weight, stride, padding):
    """Full (C_out, C_in, 3, 3) or depthwise (C, 1, 3, 3) convolution."""
    n, channels, height, width = x.shape

    def pads(size):
        # TensorFlow's SAME at stride 2: (0, 1) for an even map, (1, 1) for an odd one
        return (0, 1) if padding == "same" and stride == 2 and size % 2 == 0 else (1, 1)

    x = np.pad(x, ((0, 0), (0, 0), pads(height), pads(width)))
    out_height, out_width = (x.shape[2] - 3) // stride + 1, (x.shape[3] - 3) // stride + 1
    out = np.zeros((n, weight.shape[0], out_height, out_width))
    for dy in range(3):
        for dx in range(3):
            window = x[:, :, dy:dy + (out_height - 1) * stride + 1:stride, dx:dx + (out_width - 1) * stride + 1:stride]
            if weight.shape[1] == 1:
                out += window * weight[:, 0, dy, dx].reshape(1, -1, 1, 1)
            else:
                out += np.einsum("oi,nihw->nohw", weight[:, :, dy, dx], window, optimize=True)
    return out


def random_params(symbol, data_shape, seed=0):
    """(arg_params, aux_params) as NumPy arrays, such that activations keep their size and the answer is not flat."""
    rng = np.random.RandomState(seed)
    arg_shapes, _, aux_shapes = symbol.infer_shape(data=data_shape)
    # nothing keeps what relu lets through below 6
    gain = 0.8 if "first-3x3-conv-relu_output" in symbol.get_internals().list_outputs() else 1

    def draw(name, shape):
        if name.endswith("_weight"):
            return rng.normal(0, gain * np.sqrt(2 / np.prod(shape[1:])), shape)
        if name.endswith(("gamma", "moving_var", "running_var")):
            return rng.uniform(0.5, 1.5, shape)
        return rng.normal(0, 0.3, shape)

    return tuple({name: draw(name, shape).astype(np.float32) for name, shape in zip(names, shapes)
                  if name not in ("data", "softmax_label")}
                 for names, shapes in ((symbol.list_arguments(), arg_shapes),
                                       (symbol.list_auxiliary_states(), aux_shapes)))
