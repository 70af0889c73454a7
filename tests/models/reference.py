"""The transformer of the paper in numpy, one image, one token and one head at a time: the oracle.

It is written from arXiv:2212.09748, section 3, twice: on our tree of parameters, and on a state
dict with the names of the original code.
"""

import jax
import numpy as np


def silu(x):
    return x / (1 + np.exp(-x))


def gelu(x):
    """The tanh approximation."""
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def layer_norm(x, epsilon):
    mean = x.mean(-1, keepdims=True)
    return (x - mean) / np.sqrt(x.var(-1, keepdims=True) + epsilon)


def attention(q, k, v):
    """softmax(q k' / sqrt(d)) v of (B, L, heads, d) arrays, one sample and one head at a time."""
    out = np.empty_like(q)
    for b in range(q.shape[0]):
        for h in range(q.shape[2]):
            weights = np.exp(q[b, :, h] @ k[b, :, h].T / np.sqrt(q.shape[-1]))
            out[b, :, h] = weights / weights.sum(1, keepdims=True) @ v[b, :, h]
    return out


def place_features(row, column, width):
    """Sines and cosines of the column, then of the row, (width,)."""
    frequencies = [10000.0 ** (-4 * i / width) for i in range(width // 4)]
    features = []
    for coordinate in (column, row):
        features += [np.sin(coordinate * w) for w in frequencies]
        features += [np.cos(coordinate * w) for w in frequencies]
    return np.array(features)


def time_features(clock, shift):
    """Cosines, then sines, of the clock, (256,)."""
    angles = clock * np.exp(-np.log(10000) * np.arange(128) / (128 - shift))
    return np.concatenate([np.cos(angles), np.sin(angles)])


def cut(image, patch):
    """The patches (p, p, C) of an image (H, W, C), row by row, each with its (row, column)."""
    rows, columns = image.shape[0] // patch, image.shape[1] // patch
    for row in range(rows):
        for column in range(columns):
            vertical = slice(row * patch, (row + 1) * patch)
            horizontal = slice(column * patch, (column + 1) * patch)
            yield row, column, image[vertical, horizontal]


def join(tokens, patch, size):
    """Tokens (L, p p outputs) as an image (H, W, outputs)."""
    rows, columns = size[0] // patch, size[1] // patch
    pieces = tokens.reshape(rows, columns, patch, patch, -1)
    return np.concatenate([np.concatenate(list(row), axis=1) for row in pieces], axis=0)


def on_our_parameters(config, params, image, clock, label):
    """The network on one image (H, W, C), with our tree of parameters: (H, W, outputs)."""
    p = jax.tree.map(np.asarray, params)
    width, heads = config.width, config.heads

    def linear(layer, x):
        return x @ layer["kernel"] + layer["bias"]

    # Tokens.
    tokens = []
    for row, column, piece in cut(image, config.patch):
        tokens.append(linear(p["patches"], piece.ravel()) + place_features(row, column, width))
    x = np.stack(tokens)  # (L, E)

    # The condition.
    time = silu(linear(p["time1"], time_features(clock, config.frequency_shift)))
    condition = silu(linear(p["time2"], time) + p["labels"]["embedding"][label])

    # The layers.
    for i in range(config.depth):
        block = jax.tree.map(lambda leaf: leaf[i], p["blocks"])  # noqa: B023
        modulation = linear(block["modulation"], condition)
        shift1, scale1, gate1, shift2, scale2, gate2 = modulation.reshape(6, width)
        y = layer_norm(x, 1e-6) * (1 + scale1) + shift1
        q, k, v = (
            linear(block[name], y).reshape(1, len(y), heads, -1)
            for name in ("query", "key", "value")
        )
        x = x + gate1 * linear(block["out"], attention(q, k, v).reshape(len(y), width))
        y = layer_norm(x, config.mlp_epsilon) * (1 + scale2) + shift2
        x = x + gate2 * linear(block["mlp2"], gelu(linear(block["mlp1"], y)))

    # The last layer.
    shift, scale = linear(p["modulation"], condition).reshape(2, width)
    x = linear(p["outputs"], layer_norm(x, 1e-6) * (1 + scale) + shift)
    return join(x, config.patch, image.shape[:2])


def on_original_state(state, image, clock, label, *, heads, depth, shift=0, epsilon=1e-6):
    """The network on one image (H, W, C), with the state dict of the original code.

    `shift` and `epsilon` are those of diffusers' variant: of the frequencies of time, and of the
    norm before the MLP.
    """
    w = {name: tensor.astype(np.float64) for name, tensor in state.items()}
    kernel = w["x_embedder.proj.weight"]  # (E, C, p, p)
    width, _, patch, _ = kernel.shape

    def linear(name, x):
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    # Tokens: the patches are a convolution.
    tokens = []
    for row, column, piece in cut(image, patch):
        token = np.einsum("echw,hwc->e", kernel, piece) + w["x_embedder.proj.bias"]
        tokens.append(token + place_features(row, column, width))
    x = np.array(tokens)  # (L, E)

    # The condition.
    time = silu(linear("t_embedder.mlp.0", time_features(clock, shift)))
    classes = w["y_embedder.embedding_table.weight"][label]
    condition = silu(linear("t_embedder.mlp.2", time) + classes)

    # The layers. Queries, keys and values are one matrix.
    for i in range(depth):
        block = f"blocks.{i}"
        modulation = linear(f"{block}.adaLN_modulation.1", condition)
        shift1, scale1, gate1, shift2, scale2, gate2 = np.split(modulation, 6)
        y = layer_norm(x, 1e-6) * (1 + scale1) + shift1
        q, k, v = (
            part.reshape(1, len(y), heads, -1)
            for part in np.split(linear(f"{block}.attn.qkv", y), 3, axis=1)
        )
        x = x + gate1 * linear(f"{block}.attn.proj", attention(q, k, v).reshape(len(y), width))
        y = layer_norm(x, epsilon) * (1 + scale2) + shift2
        x = x + gate2 * linear(f"{block}.mlp.fc2", gelu(linear(f"{block}.mlp.fc1", y)))

    # The last layer.
    shift, scale = np.split(linear("final_layer.adaLN_modulation.1", condition), 2)
    x = linear("final_layer.linear", layer_norm(x, 1e-6) * (1 + scale) + shift)
    return join(x, patch, image.shape[:2])
