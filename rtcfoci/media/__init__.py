"""Media shared by every backend: frames, tracks, sources and sinks."""
