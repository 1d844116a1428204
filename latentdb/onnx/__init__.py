"""The compiled form of a model: ONNX files that run without tensorflow.

inspect   what an .onnx file may hold, checked before a runtime parses it
export    a tensorflow function written as an .onnx file
runtime   one compiled network, run by ONNX Runtime (float32) or OpenVINO (bf16)
compiled  the encoder and the decoder of a model, compiled and compared with keras
"""
