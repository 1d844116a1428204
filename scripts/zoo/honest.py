"""VAEs as people make them: by the current keras, and by tf-keras in the old formats."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from latentdb.kerasfile.runtime import load_keras
from zoo.kinds import Kind, Made

GREY, RGB = (28, 28, 1), (32, 32, 3)


def keras_of(which: str) -> Any:
    """The module a model is made with: ``"keras"``, or ``"tf_keras"`` for the old formats."""
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
    """The layer of the classic example, which no other program has."""
    import tensorflow as tf

    class Sampling(keras.layers.Layer):  # type: ignore[misc]
        def call(self, inputs: Any) -> Any:
            mean, log_var = inputs
            return mean + tf.exp(0.5 * log_var) * tf.random.normal(tf.shape(mean))

    return Sampling


def sample(pair: Any) -> Any:
    import tensorflow as tf

    return pair[0] + tf.exp(0.5 * pair[1]) * tf.random.normal(tf.shape(pair[0]))


def lived_in(model: Any) -> Any:
    """The same model with weights that are not those of a fresh one, statistics included."""
    import numpy as np

    random = np.random.default_rng(11)
    model.set_weights(
        [values + 0.1 * random.random(values.shape) for values in model.get_weights()]
    )
    for layer in model._flatten_layers():
        if hasattr(layer, "finalize_state"):
            layer.finalize_state()
    return model


class Parts:
    """Encoder and decoder of one VAE, before they are saved."""

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
        lived_in(self.encoder)
        latent = keras.Input((4,))
        self.decoder = lived_in(
            keras.Model(latent, _upwards(keras, latent, shape, last), name="decoder")
        )
        self.shape = shape

    def made(self, path: Path, **more: Any) -> Made:
        """What was saved at a path, with keras's own answers."""
        reference = self.keras.Model(self.inputs, self.mean)
        return Made(path, lambda values: reference(values, training=False), self.shape, **more)

    def saved(self, folder: Path, suffix: str = ".keras", **more: Any) -> Made:
        """Encoder and decoder in files of their own."""
        self.encoder.save(folder / f"encoder{suffix}")
        self.decoder.save(folder / f"decoder{suffix}")
        return self.made(
            folder / f"encoder{suffix}",
            decoder=folder / f"decoder{suffix}",
            decoded=lambda z: self.decoder(z, training=False),
            **more,
        )

    def whole(self, folder: Path, suffix: str = ".keras", *, flat: bool = False) -> Made:
        """One file: the decoder called on the encoder's z, or both in one graph."""
        if flat:
            outputs: Any = self.z
            for layer in self.decoder.layers[1:]:
                outputs = layer(outputs)
        else:
            outputs = self.decoder(self.encoder(self.inputs)[2])
        self.keras.Model(self.inputs, outputs, name="vae").save(folder / f"vae{suffix}")
        return self.made(folder / f"vae{suffix}", decoded=lambda z: self.decoder(z, training=False))


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


def _sequential(folder: Path, which: str, suffix: str) -> Made:
    keras = keras_of(which)
    layers = keras.layers
    model = keras.Sequential(
        [keras.Input(GREY), layers.Conv2D(8, 3, strides=2, activation="relu"), layers.Flatten(),
         layers.Dense(4)]
    )  # fmt: skip
    lived_in(model).save(folder / f"encoder{suffix}")
    return Made(folder / f"encoder{suffix}", lambda x: model(x, training=False), GREY)


def _backbone(keras: Any, x: Any) -> Any:
    """A nested model behind augmentation, with skips, as people reuse them."""
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


def _any_size(folder: Path) -> Made:
    parts = Parts("keras", RGB)
    keras, layers = parts.keras, parts.keras.layers
    inputs = keras.Input((None, None, 3))
    x = layers.Conv2D(8, 3, activation="swish")(inputs)
    mu = layers.Dense(4, name="mu")(layers.GlobalMaxPooling2D()(x))
    model = lived_in(keras.Model(inputs, mu))
    model.save(folder / "encoder.keras")
    options = {"image_size": (32, 32)}
    return Made(folder / "encoder.keras", lambda v: model(v), RGB, options=options)


def _official(folder: Path, which: str = "keras") -> Made:
    """The official example: a class with train_step around both, saved with get_config."""
    parts = Parts(which)
    keras = parts.keras

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

    vae = VAE(parts.encoder, parts.decoder)
    vae(np.zeros((1, *GREY), np.float32))
    vae.save(folder / "vae.keras")
    return parts.made(folder / "vae.keras", decoded=lambda z: parts.decoder(z, training=False))


def _named(folder: Path) -> Made:
    parts = Parts(names=(None, None), sampler="lambda", outputs="z")
    layer = parts.mean._keras_history[0].name
    return parts.saved(folder, options={"z_mean": layer})


def _unnamed(folder: Path) -> Made:
    parts = Parts(names=(None, None), sampler="lambda", outputs="z")
    parts.encoder.save(folder / "encoder.keras")
    return Made(folder / "encoder.keras")


def _class_alone(folder: Path) -> Made:
    parts = Parts()
    keras = parts.keras

    class VAE(keras.Model):  # type: ignore[misc]
        def __init__(self, encoder: Any, decoder: Any) -> None:
            super().__init__(encoder.inputs, decoder(encoder(encoder.inputs)[2]), name="vae")
            self.encoder, self.decoder = encoder, decoder

    VAE(parts.encoder, parts.decoder).save(folder / "vae.keras")
    return Made(folder / "vae.keras")


NEW = (
    Kind("classic three outputs, Sampling class", lambda f: Parts().saved(f)),
    Kind(
        "three outputs, Lambda(sampling)",
        lambda f: Parts(sampler="lambda").saved(f),
    ),
    Kind(
        "two outputs, mu and log_var",
        lambda f: Parts(names=("mu", "log_var"), outputs="mean log_var").saved(f),
    ),
    Kind("one output, no name", lambda f: Parts(names=(None, None), outputs="mean").saved(f)),
    Kind(
        "one output, a sampled z; z_mu before it",
        lambda f: Parts(names=("z_mu", "z_logvar"), outputs="z").saved(f),
    ),
    Kind("one output, a sampled z; no names", _unnamed, "give --z-mean LAYER, one of dense"),
    Kind("the same with --z-mean dense_1", _named),
    Kind("outputs in another order: z, mean, log var",
         lambda f: Parts(names=("enc_mean", "enc_logvar"), outputs="z mean log_var").saved(f)),
    Kind("whole VAE, encoder and decoder nested", lambda f: Parts().whole(f)),
    Kind("whole VAE, flat", lambda f: Parts(sampler="lambda").whole(f, flat=True)),
    Kind("whole VAE, class with train_step and get_config", _official),
    Kind("whole VAE, class without get_config", _class_alone, "its layers are in code"),
    Kind("flattened 784", lambda f: Parts(shape=(784,)).saved(f)),
    Kind("flattened 3072, whole, flat",
         lambda f: Parts(shape=(3072,)).whole(f, flat=True), quick=False),
    Kind("RGB, -1..1, tanh", lambda f: Parts(shape=RGB, last="tanh").saved(f), quick=False),
    Kind("Sequential encoder", lambda f: _sequential(f, "keras", ".keras")),
    Kind("nested backbone, augmentation, skips, nine kinds of layers",
         lambda f: Parts(shape=RGB, hidden=_backbone).saved(f)),
    Kind("x / 255 - 0.5 and relu as operations",
         lambda f: Parts(shape=(784,), hidden=_divided).saved(f)),
    Kind("any size, with --image-size 32", _any_size),
    Kind("MobileNetV2 and Rescaling inside",
         lambda f: Parts(shape=RGB, hidden=_mobile).saved(f), quick=False),
    Kind("EfficientNetB0 inside",
         lambda f: Parts(shape=RGB, hidden=_efficient).saved(f), quick=False),
    Kind("Keras 3's .h5, three outputs", lambda f: Parts().saved(f, ".h5")),
    Kind("Keras 3's .h5, whole VAE", lambda f: Parts().whole(f, ".h5"), quick=False),
)  # fmt: skip

OLD = (
    Kind("tf-keras .h5, three outputs, Sampling class",
         lambda f: Parts("tf_keras").saved(f, ".h5")),
    Kind("tf-keras .h5, Lambda(sampling), mu",
         lambda f: Parts("tf_keras", names=("mu", "log_var"), sampler="lambda").saved(f, ".h5")),
    Kind("tf-keras .h5, whole VAE, nested", lambda f: Parts("tf_keras").whole(f, ".h5")),
    Kind("tf-keras .h5, whole VAE, flat, Lambda",
         lambda f: Parts("tf_keras", sampler="lambda").whole(f, ".h5", flat=True)),
    Kind("tf-keras .h5, Sequential", lambda f: _sequential(f, "tf_keras", ".h5")),
    Kind("tf-keras .h5, nested backbone",
         lambda f: Parts("tf_keras", RGB, hidden=_backbone).saved(f, ".h5")),
    Kind("tf-keras .h5, x / 255 - 0.5 as operations",
         lambda f: Parts("tf_keras", (784,), hidden=_divided).saved(f, ".h5")),
    Kind("tf-keras .keras, three outputs", lambda f: Parts("tf_keras").saved(f)),
    Kind("tf-keras .keras, whole VAE, class with get_config", lambda f: _official(f, "tf_keras")),
    Kind("tf-keras .h5, MobileNetV2 inside",
         lambda f: Parts("tf_keras", RGB, hidden=_mobile).saved(f, ".h5")),
)  # fmt: skip
