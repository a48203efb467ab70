"""The Matrix side: the narrow client protocol, our thin client-server layer, the nio adapter."""
