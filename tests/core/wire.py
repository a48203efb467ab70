"""What came off the wire: text that is read from events is equal to ours, never the same object."""


def off_the_wire(value, depth=8):
    """Give the same in other objects; what is nested deeper stays."""
    if type(value) is str:
        return value[:1] + value[1:]
    if type(value) is list and depth:
        return [off_the_wire(item, depth - 1) for item in value]
    if type(value) is dict and depth:
        return {off_the_wire(k): off_the_wire(v, depth - 1) for k, v in value.items()}
    return value
