"""An encoder and a decoder: configuration, codec, pixel range, training, arithmetic on latents."""
