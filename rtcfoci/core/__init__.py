"""The sans-IO heart: what MatrixRTC means, without a clock, a socket or a plugin."""
