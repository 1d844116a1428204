"""The compiled form of a model: ONNX files inspected, exported, and run without tensorflow."""
