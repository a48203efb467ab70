"""Several LiveKit servers: who is sent where, and URLs that mean the same."""

from unittest.mock import Mock

import pytest
from rtcfoci_livekit_auth.room_service import Presence, Sighting
from rtcfoci_livekit_auth.sfus import Sfus, normalised
from settings_of import SECRET, settings_of


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("wss://sfu.example.org", "WSS://SFU.example.org/"),
        ("wss://sfu.example.org", "wss://sfu.example.org:443"),
        ("wss://sfu.example.org", "https://sfu.example.org."),
        ("ws://sfu.example.org:80/rtc", "http://sfu.example.org/rtc/"),
        ("ws://[::1]:7880", "ws://[::1]:7880/"),
    ],
)
def test_urls_that_mean_the_same(one, other):
    assert normalised(one) == normalised(other)


@pytest.mark.parametrize(
    "other",
    [
        "ws://sfu.example.org",
        "wss://sfu.example.org:7880",
        "wss://sfu.example.org/other",
        "wss://sfu.example.com",
        "wss://sfu.example.org?x=1",
    ],
)
def test_urls_that_do_not(other):
    assert normalised("wss://sfu.example.org") != normalised(other)


@pytest.mark.parametrize(
    "url", ["", "sfu.example.org", "wss://", "ftp://x", "wss://x:port", "wss://["]
)
def test_what_is_no_url(url):
    with pytest.raises(ValueError, match=r".+"):
        normalised(url)


def sfus_of(*urls, tmp_path, **more):
    file = tmp_path / "sfus.yaml"
    file.write_text(
        "".join(f"- {{url: '{u}', key: k{i}, secret: {SECRET}}}\n" for i, u in enumerate(urls))
    )
    return Sfus(settings_of(RTCFOCI_AUTH_SFUS_FILE=str(file), **more), Mock())


def test_a_room_is_always_on_the_same_server_and_few_move(tmp_path):
    rooms = [f"!room{n}:x" for n in range(300)]
    two = sfus_of("wss://a", "wss://b", tmp_path=tmp_path)
    turned = sfus_of("wss://b", "wss://a", tmp_path=tmp_path)
    three = sfus_of("wss://a", "wss://b", "wss://c", tmp_path=tmp_path)

    def place(sfus):
        return [sfus.of_room(room, "s").url for room in rooms]

    assert place(two) == place(turned)
    assert 100 < place(two).count("wss://a") < 200
    moved = [(was, now) for was, now in zip(place(two), place(three), strict=True) if was != now]
    assert {now for _, now in moved} == {"wss://c"}
    assert 60 < len(moved) < 140


def test_a_server_is_found_by_its_url_and_by_its_key(tmp_path):
    sfus = sfus_of("wss://a", "wss://b/", tmp_path=tmp_path)
    assert sfus.of_url("WSS://B:443").url == "wss://b/"
    assert sfus.of_url("wss://c") is None
    assert sfus.of_url("nonsense") is None
    assert [minter.key for minter in sfus.minters("k1")] == ["k1"]
    assert sfus.minters("k2") == []


@pytest.mark.parametrize(
    ("sightings", "presence"),
    [
        ("GG", Presence.GONE),
        ("GP", Presence.PRESENT),
        ("UP", Presence.PRESENT),
        ("GU", Presence.UNKNOWN),
        ("UG", Presence.UNKNOWN),
    ],
)
async def test_gone_is_who_is_on_no_server(tmp_path, sightings, presence):
    sfus = sfus_of("wss://a", "wss://b", tmp_path=tmp_path)
    of_letter = {"G": Presence.GONE, "P": Presence.PRESENT, "U": Presence.UNKNOWN}
    for sfu, letter in zip(sfus.all, sightings, strict=True):

        async def look_up(*_, letter=letter):
            return Sighting(of_letter[letter])

        sfu.service.look_up = look_up
    assert (await sfus.is_there("room", "identity")).presence is presence


def test_a_salt_is_there_where_the_policy_wants_it_and_stays(tmp_path):
    assert sfus_of("wss://a", tmp_path=tmp_path).all[0].salt == ""
    salts = {
        sfus_of("wss://a", tmp_path=tmp_path, RTCFOCI_AUTH_SALTED_ALIAS="true").all[0].salt
        for _ in range(2)
    }
    assert len(salts) == 1
    assert salts != {""}
