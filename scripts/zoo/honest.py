"""VAEs as people write them, saved by the current keras and by tf-keras in the old formats."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from latentdb.kerasfile.runtime import load_keras
from zoo.case import Case, ModelFiles

GREY, RGB = (28, 28, 1), (32, 32, 3)


def keras_of(which: str) -> Any:
    """The module to make a model with: ``"keras"``, or ``"tf_keras"`` for the old formats."""
    keras = load_keras()
    if which == "tf_keras":
        import tf_keras as keras
    keras.utils.set_random_seed(5)
    return keras


def tf_keras_version() -> str | None:
    try:
        import tf_keras
    except ImportError:
        return None
    return str(tf_keras.__version__)


def sampling_class(keras: Any) -> Any:
    """The custom layer of the classic example."""
    import tensorflow as tf

    class Sampling(keras.layers.Layer):  # type: ignore[misc]
        def call(self, inputs: Any) -> Any:
            mean, log_var = inputs
            return mean + tf.exp(0.5 * log_var) * tf.random.normal(tf.shape(mean))

    return Sampling


def sample(pair: Any) -> Any:
    import tensorflow as tf

    return pair[0] + tf.exp(0.5 * pair[1]) * tf.random.normal(tf.shape(pair[0]))


def with_random_weights(model: Any) -> Any:
    """The model with random weights and statistics in place of the initial ones."""
    import numpy as np

    random = np.random.default_rng(11)
    model.set_weights(
        [values + 0.1 * random.random(values.shape) for values in model.get_weights()]
    )
    for layer in model._flatten_layers():
        if hasattr(layer, "finalize_state"):
            layer.finalize_state()
    return model


class Pair:
    """Encoder and decoder of one VAE, not yet saved."""

    def __init__(
        self,
        which: str = "keras",
        shape: tuple[int, ...] = GREY,
        *,
        names: tuple[str | None, str | None] = ("z_mean", "z_log_var"),
        sampler: str = "class",
        outputs: str = "mean log_var z",
        last: str = "sigmoid",
        hidden: Callable[[Any, Any], Any] | None = None,
    ) -> None:
        keras = keras_of(which)
        layers = keras.layers
        self.keras = keras
        self.inputs = keras.Input(shape)
        body = _conv if len(shape) == 3 else _dense
        x = (hidden or body)(keras, self.inputs)
        self.mean = layers.Dense(4, **({"name": names[0]} if names[0] else {}))(x)
        self.log_var = layers.Dense(4, **({"name": names[1]} if names[1] else {}))(x)
        pair = [self.mean, self.log_var]
        if sampler == "class":
            self.z = sampling_class(keras)(name="z")(pair)
        else:
            extra = {"output_shape": (4,)} if which == "keras" else {}
            self.z = layers.Lambda(sample, name="z", **extra)(pair)
        given = {"mean": self.mean, "log_var": self.log_var, "z": self.z}
        listed = [given[name] for name in outputs.split()]
        self.encoder = keras.Model(
            self.inputs, listed if len(listed) > 1 else listed[0], name="encoder"
        )
        with_random_weights(self.encoder)
        latent = keras.Input((4,))
        self.decoder = with_random_weights(
            keras.Model(latent, _upwards(keras, latent, shape, last), name="decoder")
        )
        self.shape = shape

    def files(self, path: Path, **more: Any) -> ModelFiles:
        """Files of a case, with keras's results."""
        reference = self.keras.Model(self.inputs, self.mean)
        return ModelFiles(
            path, lambda values: reference(values, training=False), self.shape, **more
        )

    def saved(self, folder: Path, suffix: str = ".keras", **more: Any) -> ModelFiles:
        """Encoder and decoder in two files."""
        self.encoder.save(folder / f"encoder{suffix}")
        self.decoder.save(folder / f"decoder{suffix}")
        return self.files(
            folder / f"encoder{suffix}",
            decoder=folder / f"decoder{suffix}",
            decoded=lambda z: self.decoder(z, training=False),
            **more,
        )

    def whole(self, folder: Path, suffix: str = ".keras", *, flat: bool = False) -> ModelFiles:
        """One file: nested models, or all layers in one graph."""
        if flat:
            outputs: Any = self.z
            for layer in self.decoder.layers[1:]:
                outputs = layer(outputs)
        else:
            outputs = self.decoder(self.encoder(self.inputs)[2])
        self.keras.Model(self.inputs, outputs, name="vae").save(folder / f"vae{suffix}")
        return self.files(
            folder / f"vae{suffix}", decoded=lambda z: self.decoder(z, training=False)
        )


def _conv(keras: Any, x: Any) -> Any:
    layers = keras.layers
    x = layers.Conv2D(8, 3, strides=2, padding="same", activation="relu")(x)
    x = layers.BatchNormalization()(x)
    x = layers.Conv2D(8, 3, strides=2, padding="same")(x)
    x = layers.LeakyReLU()(x)
    x = layers.Dropout(0.2)(x)
    return layers.Dense(16, activation="relu")(layers.Flatten()(x))


def _dense(keras: Any, x: Any) -> Any:
    return keras.layers.Dense(32, activation="relu")(x)


def _upwards(keras: Any, z: Any, shape: tuple[int, ...], last: str) -> Any:
    layers = keras.layers
    if len(shape) != 3:
        return layers.Dense(shape[0], activation=last)(layers.Dense(32, activation="relu")(z))
    height, width, channels = shape
    x = layers.Dense(height // 4 * (width // 4) * 8, activation="relu")(z)
    x = layers.Reshape((height // 4, width // 4, 8))(x)
    x = layers.Conv2DTranspose(8, 3, strides=2, padding="same", activation="relu")(x)
    x = layers.UpSampling2D()(x)
    return layers.Conv2D(channels, 3, padding="same", activation=last)(x)


# --- unusual encoders ------------------------------------------------------------------


def _sequential(folder: Path, which: str, suffix: str) -> ModelFiles:
    keras = keras_of(which)
    layers = keras.layers
    model = keras.Sequential(
        [keras.Input(GREY), layers.Conv2D(8, 3, strides=2, activation="relu"), layers.Flatten(),
         layers.Dense(4)]
    )  # fmt: skip
    with_random_weights(model).save(folder / f"encoder{suffix}")
    return ModelFiles(folder / f"encoder{suffix}", lambda x: model(x, training=False), GREY)


def _backbone(keras: Any, x: Any) -> Any:
    """A nested model with skip connections, behind augmentation layers."""
    layers = keras.layers
    x = layers.RandomRotation(0.1)(layers.RandomFlip("horizontal")(x))
    inner = keras.Input((32, 32, 3))
    stem = keras.Sequential(
        [keras.Input((32, 32, 3)), layers.ZeroPadding2D(1), layers.Conv2D(8, 3, strides=2)],
        name="stem",
    )(inner)
    side = layers.SeparableConv2D(8, 3, padding="same", activation="elu")(stem)
    side = layers.DepthwiseConv2D(3, padding="same")(side)
    joined = layers.Concatenate()([layers.Add()([stem, side]), layers.PReLU()(side)])
    normal = layers.GroupNormalization(4)(joined)
    normal = layers.LayerNormalization()(layers.MaxPooling2D()(normal))
    backbone = keras.Model(inner, layers.GlobalAveragePooling2D()(normal), name="backbone")
    return layers.Dense(16, activation=layers.LeakyReLU(0.1))(backbone(x))


def _mobile(keras: Any, x: Any) -> Any:
    net = keras.applications.MobileNetV2(
        input_shape=(32, 32, 3), alpha=0.35, include_top=False, weights=None, pooling="avg"
    )
    return net(keras.layers.Rescaling(1 / 127.5, offset=-1.0)(x))


def _efficient(keras: Any, x: Any) -> Any:
    net = keras.applications.EfficientNetB0(
        input_shape=(32, 32, 3), include_top=False, weights=None, pooling="avg"
    )
    return net(x)


def _divided(keras: Any, x: Any) -> Any:
    return _dense(keras, keras.activations.relu(x / 255.0 - 0.5))


def _any_size(folder: Path) -> ModelFiles:
    vae = Pair("keras", RGB)
    keras, layers = vae.keras, vae.keras.layers
    inputs = keras.Input((None, None, 3))
    x = layers.Conv2D(8, 3, activation="swish")(inputs)
    mu = layers.Dense(4, name="mu")(layers.GlobalMaxPooling2D()(x))
    model = with_random_weights(keras.Model(inputs, mu))
    model.save(folder / "encoder.keras")
    options = {"image_size": (32, 32)}
    return ModelFiles(folder / "encoder.keras", lambda v: model(v), RGB, options=options)


def _official(folder: Path, which: str = "keras") -> ModelFiles:
    """The official Keras example: a ``keras.Model`` subclass with both, saved with get_config."""
    vae = Pair(which)
    keras = vae.keras

    class VAE(keras.Model):  # type: ignore[misc]
        def __init__(self, encoder: Any, decoder: Any, **more: Any) -> None:
            super().__init__(**more)
            self.encoder, self.decoder = encoder, decoder
            self.loss_tracker = keras.metrics.Mean(name="loss")

        def call(self, inputs: Any) -> Any:
            return self.decoder(self.encoder(inputs)[2])

        def get_config(self) -> dict[str, Any]:
            one = keras.saving.serialize_keras_object
            return {"encoder": one(self.encoder), "decoder": one(self.decoder)}

    import numpy as np

    model = VAE(vae.encoder, vae.decoder)
    model(np.zeros((1, *GREY), np.float32))
    model.save(folder / "vae.keras")
    return vae.files(folder / "vae.keras", decoded=lambda z: vae.decoder(z, training=False))


def _operated(keras: Any, x: Any) -> Any:
    """Slices, a mean, attention and a wrapper, as operations and layers of Keras 3."""
    layers, ops = keras.layers, keras.ops
    x = layers.SpectralNormalization(layers.Conv2D(8, 3, strides=2, padding="same"))(x)
    x = ops.concatenate([x[..., :4], ops.hard_sigmoid(x[..., 4:])], axis=-1)
    tokens = ops.reshape(x, (-1, 256, 8))
    tokens = tokens + layers.MultiHeadAttention(2, 4)(tokens, tokens)
    return layers.TimeDistributed(layers.Dense(8))(ops.split(tokens, 2, axis=1)[1])[:, -1]


def _spatial(folder: Path) -> ModelFiles:
    """Fully convolutional: latents are 8x8x2."""
    keras = keras_of("keras")
    layers = keras.layers
    inputs, latent = keras.Input(RGB), keras.Input((8, 8, 2))
    x = layers.Conv2D(8, 3, strides=4, padding="same", activation="relu")(inputs)
    mean, log_var = (layers.Conv2D(2, 1, name=name)(x) for name in ("z_mean", "z_log_var"))
    image = layers.Conv2DTranspose(3, 3, strides=4, padding="same", activation="sigmoid")(latent)
    encoder = with_random_weights(keras.Model(inputs, [mean, log_var]))
    decoder = with_random_weights(keras.Model(latent, image))
    encoder.save(folder / "encoder.keras")
    decoder.save(folder / "decoder.keras")
    return ModelFiles(
        folder / "encoder.keras", lambda x: encoder(x)[0], RGB, decoder=folder / "decoder.keras",
        decoded=lambda z: decoder(z.reshape(-1, 8, 8, 2)),
    )  # fmt: skip


def _halved(folder: Path) -> ModelFiles:
    """The encoder of tensorflow's CVAE tutorial, whose code splits z_mean and z_log_var."""
    keras = keras_of("keras")
    layers = keras.layers
    encoder = with_random_weights(
        keras.Sequential([keras.Input(GREY), layers.Flatten(), layers.Dense(8, name="both")])
    )
    encoder.save(folder / "encoder.keras")
    options = {"z_mean": "both[:4]", "z_log_var": "both[4:]"}
    return ModelFiles(folder / "encoder.keras", lambda x: encoder(x)[:, :4], GREY, options=options)


def _conditional(
    folder: Path, which: str = "keras", suffix: str = ".keras", *, kind: str = "one-hot"
) -> ModelFiles:
    """A conditional VAE of five classes.

    Their one-hot vectors are joined to images and latents, or their numbers are looked up in
    an embedding by the decoder alone; ``"flat"`` is the former in one graph.
    """
    import numpy as np

    keras = keras_of(which)
    layers = keras.layers
    image, latent = keras.Input(GREY, name="image"), keras.Input((4,), name="latent")
    looked_up = kind == "embedding"
    label = keras.Input((1,) if looked_up else (5,), name="label")
    flat = layers.Flatten()(image)
    hidden = layers.Dense(16, activation="relu")(
        flat if looked_up else layers.Concatenate()([flat, label])
    )
    mean, log_var = (layers.Dense(4, name=name)(hidden) for name in ("z_mean", "z_log_var"))
    code = layers.Flatten()(layers.Embedding(5, 3)(label)) if looked_up else label
    upwards = layers.Dense(784, activation="sigmoid")
    pixels = layers.Reshape(GREY)(upwards(layers.Concatenate()([latent, code])))
    encoder = with_random_weights(keras.Model(image if looked_up else [image, label], mean))
    decoder = with_random_weights(keras.Model([latent, label], pixels, name="decoder"))
    path, other = folder / f"encoder{suffix}", folder / f"decoder{suffix}"
    if kind == "flat":
        extra = {"output_shape": (4,)} if which == "keras" else {}
        z = layers.Lambda(sample, name="z", **extra)([mean, log_var])
        joined = layers.Reshape(GREY)(upwards(layers.Concatenate()([z, label])))
        keras.Model([image, label], joined, name="vae").save(path)
    else:
        keras.Model(encoder.inputs, [mean, log_var], name="encoder").save(path)
        decoder.save(other)
    classes = np.arange(16, dtype=np.float32)[:, None] % 5
    given = classes if looked_up else np.eye(5, dtype=np.float32)[classes[:, 0].astype(int)]
    return ModelFiles(
        path,
        lambda x: encoder(x if looked_up else [x, given]),
        GREY,
        decoder=None if kind == "flat" else other,
        decoded=lambda z: decoder([z, given]),
        options={"condition": "label"},
        condition=given,
        conditional=("decoder",) if looked_up else ("encoder", "decoder"),
    )


def _with_architecture(folder: Path, which: str, suffix: str) -> ModelFiles:
    vae = Pair(which)
    listed = []
    for model, name in ((vae.encoder, "encoder"), (vae.decoder, "decoder")):
        model.save_weights(folder / f"{name}{suffix}")
        (folder / f"{name}.json").write_text(model.to_json())
        listed.append(str(folder / f"{name}.json"))
    return vae.files(
        folder / f"encoder{suffix}", decoder=folder / f"decoder{suffix}",
        decoded=lambda z: vae.decoder(z, training=False), options={"architectures": tuple(listed)},
    )  # fmt: skip


def _with_loss(folder: Path) -> ModelFiles:
    """``vae.add_loss(tensor)``, whose operations and constants are layers of the file."""
    import tensorflow as tf

    vae = Pair("tf_keras")
    mean, log_var, z = vae.encoder(vae.inputs)
    whole = vae.keras.Model(vae.inputs, vae.decoder(z), name="vae")
    whole.add_loss(-0.5 * tf.reduce_mean(1.0 + log_var - tf.square(mean) - tf.exp(log_var)))
    whole.save(folder / "vae.h5")
    return vae.files(folder / "vae.h5", decoded=lambda z: vae.decoder(z, training=False))


def _with_z_mean_named(folder: Path) -> ModelFiles:
    vae = Pair(names=(None, None), sampler="lambda", outputs="z")
    layer = vae.mean._keras_history[0].name
    return vae.saved(folder, options={"z_mean": layer})


def _unnamed(folder: Path) -> ModelFiles:
    vae = Pair(names=(None, None), sampler="lambda", outputs="z")
    vae.encoder.save(folder / "encoder.keras")
    return ModelFiles(folder / "encoder.keras")


def _class_alone(folder: Path) -> ModelFiles:
    vae = Pair()
    keras = vae.keras

    class VAE(keras.Model):  # type: ignore[misc]
        def __init__(self, encoder: Any, decoder: Any) -> None:
            super().__init__(encoder.inputs, decoder(encoder(encoder.inputs)[2]), name="vae")
            self.encoder, self.decoder = encoder, decoder

    VAE(vae.encoder, vae.decoder).save(folder / "vae.keras")
    return ModelFiles(folder / "vae.keras")


NEW = (
    Case("classic three outputs, Sampling class", lambda f: Pair().saved(f)),
    Case(
        "three outputs, Lambda(sampling)",
        lambda f: Pair(sampler="lambda").saved(f),
    ),
    Case(
        "two outputs, mu and log_var",
        lambda f: Pair(names=("mu", "log_var"), outputs="mean log_var").saved(f),
    ),
    Case("one output, no name", lambda f: Pair(names=(None, None), outputs="mean").saved(f)),
    Case(
        "one output, a sampled z; z_mu before it",
        lambda f: Pair(names=("z_mu", "z_logvar"), outputs="z").saved(f),
    ),
    Case("one output, a sampled z; no names", _unnamed, "give --z-mean LAYER, one of dense"),
    Case("the same with --z-mean dense_1", _with_z_mean_named),
    Case("outputs in another order: z, mean, log var",
         lambda f: Pair(names=("enc_mean", "enc_logvar"), outputs="z mean log_var").saved(f)),
    Case("whole VAE, encoder and decoder nested", lambda f: Pair().whole(f)),
    Case("whole VAE, flat", lambda f: Pair(sampler="lambda").whole(f, flat=True)),
    Case("whole VAE, class with train_step and get_config", _official),
    Case("whole VAE, class without get_config", _class_alone, "its layers are in code"),
    Case("flattened 784", lambda f: Pair(shape=(784,)).saved(f)),
    Case("flattened 3072, whole, flat",
         lambda f: Pair(shape=(3072,)).whole(f, flat=True), quick=False),
    Case("RGB, -1..1, tanh", lambda f: Pair(shape=RGB, last="tanh").saved(f), quick=False),
    Case("Sequential encoder", lambda f: _sequential(f, "keras", ".keras")),
    Case("nested backbone, augmentation, skips, nine types of layers",
         lambda f: Pair(shape=RGB, hidden=_backbone).saved(f)),
    Case("x / 255 - 0.5 and relu as operations",
         lambda f: Pair(shape=(784,), hidden=_divided).saved(f)),
    Case("any size, with --image-size 32", _any_size),
    Case("MobileNetV2 and Rescaling inside",
         lambda f: Pair(shape=RGB, hidden=_mobile).saved(f), quick=False),
    Case("EfficientNetB0 inside",
         lambda f: Pair(shape=RGB, hidden=_efficient).saved(f), quick=False),
    Case("slices, attention, spectral normalisation and other operations",
         lambda f: Pair(shape=RGB, hidden=_operated).saved(f)),
    Case("latents of 8x8x2, fully convolutional", _spatial),
    Case("z_mean and z_log_var in one layer, with --z-mean 'both[:4]'", _halved),
    Case("conditional, a one-hot class, with --condition", _conditional),
    Case("conditional, a class that the decoder looks up in an embedding",
         lambda f: _conditional(f, kind="embedding")),
    Case("conditional, whole VAE, flat", lambda f: _conditional(f, kind="flat")),
    Case("weights with --architecture",
         lambda f: _with_architecture(f, "keras", ".weights.h5")),
    Case("Keras 3's .h5, three outputs", lambda f: Pair().saved(f, ".h5")),
    Case("Keras 3's .h5, whole VAE", lambda f: Pair().whole(f, ".h5"), quick=False),
)  # fmt: skip

OLD = (
    Case("tf-keras .h5, three outputs, Sampling class",
         lambda f: Pair("tf_keras").saved(f, ".h5")),
    Case("tf-keras .h5, Lambda(sampling), mu",
         lambda f: Pair("tf_keras", names=("mu", "log_var"), sampler="lambda").saved(f, ".h5")),
    Case("tf-keras .h5, whole VAE, nested", lambda f: Pair("tf_keras").whole(f, ".h5")),
    Case("tf-keras .h5, whole VAE, flat, Lambda",
         lambda f: Pair("tf_keras", sampler="lambda").whole(f, ".h5", flat=True)),
    Case("tf-keras .h5, whole VAE, add_loss of tensors", _with_loss),
    Case("tf-keras .h5, conditional, a one-hot class",
         lambda f: _conditional(f, "tf_keras", ".h5")),
    Case("tf-keras .h5, conditional, an embedding",
         lambda f: _conditional(f, "tf_keras", ".h5", kind="embedding")),
    Case("tf-keras weights with --architecture",
         lambda f: _with_architecture(f, "tf_keras", ".h5")),
    Case("tf-keras .h5, Sequential", lambda f: _sequential(f, "tf_keras", ".h5")),
    Case("tf-keras .h5, nested backbone",
         lambda f: Pair("tf_keras", RGB, hidden=_backbone).saved(f, ".h5")),
    Case("tf-keras .h5, x / 255 - 0.5 as operations",
         lambda f: Pair("tf_keras", (784,), hidden=_divided).saved(f, ".h5")),
    Case("tf-keras .keras, three outputs", lambda f: Pair("tf_keras").saved(f)),
    Case("tf-keras .keras, whole VAE, class with get_config", lambda f: _official(f, "tf_keras")),
    Case("tf-keras .h5, MobileNetV2 inside",
         lambda f: Pair("tf_keras", RGB, hidden=_mobile).saved(f, ".h5")),
    Case("tf-keras SavedModel, three outputs, Sampling class",
         lambda f: Pair("tf_keras").saved(f, ""), quick=False),
    Case("tf-keras SavedModel, whole VAE, nested",
         lambda f: Pair("tf_keras").whole(f, ""), quick=False),
    Case("tf-keras SavedModel, RGB, nested backbone",
         lambda f: Pair("tf_keras", RGB, hidden=_backbone).saved(f, ""), quick=False),
)  # fmt: skip
