"""What a malicious pickle holds: `Payload`."""

import os


class Payload:
    """Loading it would make a folder."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)
