"""Captioners as ONNX graphs, for the ONNX engine."""
