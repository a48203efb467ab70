"""What a person reads when a command cannot work: exit code, cause, remedy, and never a secret."""

import asyncio
import itertools
import json

import pytest

from rtcfoci.cli.main import main
from rtcfoci.errors import ClientError

MEMORY = ("--plugin", "rtcfoci.testing.memory_types", "--focus", "memory.pairwise")
PASSWORD = "correct-horse-battery"
_numbers = itertools.count(1)

system = [pytest.mark.system, pytest.mark.timeout(120)]


class Teller:
    """Runs commands and reads their errors; every secret it knows must stay out of what they print."""

    def __init__(self, capfd, secrets):
        self._capfd = capfd
        self._secrets = secrets

    def error(self, code, *arguments):
        """Run it as text and as JSON, and give back what, why and do."""
        assert main([str(a) for a in arguments]) == code, self._capfd.readouterr()
        lines = self._read().err.splitlines()
        assert [line[:7] for line in lines] == ["error: ", "why:   ", "do:    "]
        assert main(["--json", *map(str, arguments)]) == code
        (line,) = self._read().err.splitlines()
        told = json.loads(line)["error"]
        assert list(told) == ["what", "why", "do"]
        assert all(told.values())
        assert [x[7:].split() for x in lines] == [text.split() for text in told.values()]
        return told

    def works(self, *arguments):
        code = main([str(a) for a in arguments])
        said = self._read()
        assert code == 0, said
        return said.out

    def _read(self):
        said = self._capfd.readouterr()
        for secret in self._secrets:
            assert secret not in said.out + said.err
        return said


@pytest.fixture
def teller(capfd):
    return Teller(capfd, [PASSWORD])


@pytest.fixture
def token_file(tmp_path, teller):
    path = tmp_path / "token"
    path.write_text("syt_surely_not_a_token")
    teller._secrets.append("syt_surely_not_a_token")
    return path


class TestBeforeAnythingIsSent:
    """Nobody listens on that port, so whatever were asked of it would end with 3."""

    @pytest.fixture
    def join(self, token_file):
        nobody = ("--homeserver", "http://127.0.0.1:9", "--token-file", token_file)
        return ("join", "!room:localhost", *nobody, "--plugin", "rtcfoci.testing.memory_types")

    def test_unreachable(self, teller, join):
        told = teller.error(3, *join, "--focus", "memory.pairwise")
        assert told["what"] == "The homeserver http://127.0.0.1:9 cannot be reached."

    @pytest.mark.parametrize(
        ("options", "what", "do"),
        [
            (["--focus", "memory.pairwize"], "no installed focus type", "did you mean"),
            (["--focus", "livekit"], "no installed focus type for livekit", "rtcfoci-livekit"),
            (["--dialect", "D9"], "no writable dialect is called 'D9'", "choose one"),
            (["--source", "ton:4"], "the source 'ton:4' is not understood", "did you mean tone?"),
            (["--source", "file:/no/such"], "the file /no/such cannot be played", "check the path"),
            (["--source", "file:{token}"], "cannot be opened", "check that it is a media file"),
            (["--record", "{token}/x"], "recordings cannot be written", "choose a folder"),
            (["--focus-option", "x.y=1"], "--focus-option 'x.y=1' is not understood", "example"),
            (["--duration", "-1"], "--duration", "rtcfoci join --help"),
            (["--leave-delay", "0"], "--leave-delay", "rtcfoci join --help"),
            (["--open-slot", "yes"], "--open-slot", "rtcfoci join --help"),
            (["--password", PASSWORD], "there is no option --password", "--password-file FILE"),
            (["--token", PASSWORD], "there is no option --token", "--token-file FILE"),
        ],
    )
    def test_usage(self, teller, join, token_file, options, what, do):
        options = [option.format(token=token_file) for option in options]
        focus = () if "--focus" in options else ("--focus", "memory.pairwise")
        told = teller.error(2, *join, *focus, *options)
        assert what in told["what"]
        assert do in told["do"]

    @pytest.mark.parametrize(
        ("options", "what"),
        [
            ([], "no homeserver is named"),
            (["--homeserver", "http://127.0.0.1:9"], "no account is named"),
            (["--homeserver", "ftp://x"], "'ftp://x' is no homeserver."),
            (["--homeserver", "http://127.0.0.1:9", "--token-file", "/no/such"], "cannot be read"),
            (["--homeserver", "http://127.0.0.1:9", "--token-file", "/dev/null"], "is empty"),
        ],
    )
    def test_no_account(self, teller, token_file, monkeypatch, options, what):
        for name in ("RTCFOCI_HOMESERVER", "RTCFOCI_USER"):
            monkeypatch.delenv(name, raising=False)
        if options and "--token-file" not in options and "ftp" in options[1]:
            options = [*options, "--token-file", str(token_file)]
        assert what in teller.error(2, "join", "!r:x", *options, *MEMORY)["what"]

    def test_a_server_name_that_answers_nothing_asks_for_the_base_url(self, teller, token_file):
        name = ("--homeserver", "127.0.0.1:9", "--token-file", token_file)
        told = teller.error(3, "join", "!r:x", *name, *MEMORY)
        assert "give the base URL" in told["do"]

    def test_only_debug_shows_a_traceback(self, join, capfd):
        assert main([*map(str, join), "--focus", "nothing", "--debug"]) == 2
        assert "Traceback" in capfd.readouterr().err


@pytest.fixture
def ann(synapse):
    return asyncio.run(synapse.register(f"cliann{next(_numbers)}", PASSWORD))


@pytest.fixture
def bob(synapse):
    return asyncio.run(synapse.register(f"clibob{next(_numbers)}", PASSWORD))


@pytest.fixture
def account(synapse, teller, tmp_path):
    """Give the options that name somebody, with a device that is kept within the test."""

    def options(person, server=synapse):
        folder = tmp_path / person.user_id[1:].replace(":", "_")
        folder.mkdir(exist_ok=True)
        (folder / "password").write_text(PASSWORD)
        teller._secrets.append(person.access_token)
        user = ("--homeserver", server.base_url, "--user", person.user_id)
        return *user, "--password-file", folder / "password", "--device-store", folder / "device"

    return options


def room_of(synapse, owner, *others, **options):
    async def make():
        room_id = await synapse.create_room(owner.access_token, **options)
        for other in others:
            await synapse.join_room(other.access_token, room_id)
        return room_id

    return asyncio.run(make())


def ask(synapse, person, path, body, method="POST"):
    path = f"/_matrix/client/v3/{path}"
    return asyncio.run(synapse.checked(method, path, person.access_token, body=body))


class TestOnARealHomeserver:
    pytestmark = system

    def test_bad_token(self, synapse, teller, token_file):
        server = ("--homeserver", synapse.base_url, "--token-file", token_file)
        told = teller.error(2, "join", "!r:localhost", *server, *MEMORY)
        assert "M_UNKNOWN_TOKEN" in told["why"]
        assert "Log in again" in told["do"]

    def test_wrong_password(self, synapse, teller, bob, tmp_path):
        (tmp_path / "wrong").write_text("not-the-password")
        teller._secrets.append("not-the-password")
        user = ("--homeserver", synapse.base_url, "--user", bob.user_id)
        login = (*user, "--password-file", tmp_path / "wrong")
        assert "the password" in teller.error(2, "join", "!r:localhost", *login, *MEMORY)["do"]

    @pytest.mark.parametrize(
        ("room", "what"),
        [
            ("#nobody:localhost", "alias"),
            ("nothing", "names no room"),
            ("!nowhere:localhost", "we are not in the room"),
        ],
    )
    def test_no_such_room(self, teller, account, bob, room, what):
        told = teller.error(2, "join", room, *account(bob), *MEMORY)
        assert what in told["what"] + told["why"]

    def test_a_room_that_we_are_not_in(self, synapse, teller, account, ann, bob):
        room_id = room_of(synapse, ann, public=False)
        for command in ("join", "watch"):
            focus = MEMORY if command == "join" else ()
            told = teller.error(2, command, room_id, *account(bob), *focus)
            assert told["what"] == "we are not in the room"

    @pytest.mark.parametrize("was_in", [True, False])
    def test_banned(self, synapse, teller, account, ann, bob, was_in):
        room_id = room_of(synapse, ann, *([bob] if was_in else []))
        ask(synapse, ann, f"rooms/{room_id}/ban", {"user_id": bob.user_id, "reason": "test"})
        told = teller.error(2, "join", room_id, *account(bob), *MEMORY)
        assert told["what"] == "we are banned from the room"

    def test_upgraded(self, synapse, teller, account, ann, bob):
        room_id = room_of(synapse, ann, bob)
        new = ask(synapse, ann, f"rooms/{room_id}/upgrade", {"new_version": "11"})
        told = teller.error(2, "join", room_id, *account(bob), *MEMORY)
        assert told["what"] == "the room was upgraded"
        assert str(new["replacement_room"]) in told["do"]

    def test_too_little_power_and_the_remedy_works(self, synapse, teller, account, ann, bob):
        room_id = room_of(synapse, ann, bob, calls=False)
        join = ("join", room_id, *account(bob), *MEMORY, "--dialect", "D3", "--duration", "1")
        told = teller.error(2, *join)
        assert told["what"] == "our power level is too low for the membership event"
        assert f"{bob.user_id} has 0" in told["why"]
        assert f"rtcfoci slot permit '{room_id}'" in told["do"]
        refused = teller.error(2, "slot", "permit", room_id, *account(bob))
        assert "m.room.power_levels" in refused["what"]
        assert "may take part" in teller.works("slot", "permit", room_id, *account(ann))
        assert "the call is over" in teller.works(*join)

    def test_a_sticky_dialect_needs_sticky_events(self, plain_synapse, teller, account):
        eve = asyncio.run(plain_synapse.register(f"clieve{next(_numbers)}", PASSWORD))
        room_id = room_of(plain_synapse, eve)
        join = ("join", room_id, *account(eve, plain_synapse), *MEMORY)
        told = teller.error(2, *join, "--dialect", "D6/D7")
        assert "MSC4354" in told["why"]

    def test_without_delayed_events_it_says_what_a_crash_leaves(
        self, plain_synapse, teller, account
    ):
        eve = asyncio.run(plain_synapse.register(f"clieve{next(_numbers)}", PASSWORD))
        room_id = room_of(plain_synapse, eve)
        join = ("join", room_id, *account(eve, plain_synapse), *MEMORY, "--duration", "2.5")
        lines = [json.loads(line) for line in teller.works("--json", *join).splitlines()]
        status = [line for line in lines if line["event"] == "Status"]
        assert status
        codes = {condition["code"] for condition in status[-1]["conditions"]}
        assert "no_dead_mans_switch" in codes


class TestSlots:
    pytestmark = system

    def slot(self, synapse, person, room_id):
        path = f"rooms/{room_id}/state/org.matrix.msc4143.rtc.slot/m.call%23ROOM"
        try:
            return ask(synapse, person, path, None, "GET")
        except ClientError as error:
            if error.status != 404:
                raise
            return None

    def conditions(self, teller, *join):
        lines = [json.loads(line) for line in teller.works("--json", *join).splitlines()]
        return {c["code"] for x in lines if x["event"] == "Status" for c in x["conditions"]}

    def test_who_has_the_power_opens_a_closed_slot_and_never_makes_one(
        self, synapse, teller, account, ann, bob
    ):
        room_id = room_of(synapse, ann, bob)
        rest = (*MEMORY, "--duration", "2.5")
        assert "slot_closed" not in self.conditions(teller, "join", room_id, *account(ann), *rest)
        assert self.slot(synapse, ann, room_id) is None
        assert "is open" in teller.works("slot", "open", room_id, *account(ann))
        opened = self.slot(synapse, ann, room_id)
        assert opened
        assert "is closed" in teller.works("slot", "close", room_id, *account(ann))
        closed = self.slot(synapse, ann, room_id)
        assert closed != opened
        assert "slot_closed" in self.conditions(teller, "join", room_id, *account(bob), *rest)
        assert self.slot(synapse, ann, room_id) == closed
        never = ("--open-slot", "never")
        told = self.conditions(teller, "join", room_id, *account(ann), *rest, *never)
        assert "slot_closed" in told
        assert self.slot(synapse, ann, room_id) == closed
        teller.works("join", room_id, *account(ann), *rest)
        assert self.slot(synapse, ann, room_id) not in (closed, None)
        told = teller.error(2, "slot", "close", room_id, *account(bob))
        assert "org.matrix.msc4143.rtc.slot" in told["what"]
