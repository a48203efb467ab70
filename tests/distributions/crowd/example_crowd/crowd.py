from rtcfoci.core.selection import Choice
from rtcfoci.errors import SelectionError


class Crowd:
    name = "crowd"

    def choose(self, members, own, offered, known):
        if not offered:
            raise SelectionError(
                "there is no focus to publish on",
                why="none of the accepted types offers one",
                do="accept another focus type",
            )
        others = [member for member in members if member.member != own]
        there = [sum(_is_on(member, offer) for member in others) for offer in offered]
        most = max(there)
        # Equal crowds: the application's order decides.
        offer = offered[there.index(most)]
        return Choice(offer.transport, f"{most} of {len(others)} members are there")


def _is_on(member, offer):
    return any(offer.means(transport.type) for transport in member.transports)
