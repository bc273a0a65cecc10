"""stub"""

from lema_core.answers.types import Match


class Workers:
    def match(self, gold: str, pred: str) -> Match:
        return Match("unknown", "none", "no worker")


_W = Workers()


def shared_workers() -> Workers:
    return _W
