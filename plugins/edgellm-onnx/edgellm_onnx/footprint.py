"""TODO"""


def footprint(model, settings, options):
    return None
