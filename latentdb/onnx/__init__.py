"""Networks as ONNX files, which run without tensorflow: compiled, or of another framework.

inspect   what an .onnx file may hold, checked before a runtime parses it
export    a tensorflow function written as an .onnx file
runtime   one compiled network, run by ONNX Runtime (float32) or OpenVINO (bf16)
adopt     ONNX files of any framework, brought into one layout
compiled  the encoder and the decoder of a model, compiled and compared with keras
"""
