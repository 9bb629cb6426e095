"""The captioner without PyTorch: ONNX."""
