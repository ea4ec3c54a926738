"""The configuration file: what it makes, and what it says of faults."""

import datetime as dt
import gc
import ipaddress
import os
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding

from openmoat import _native
from openmoat.config import stamps
from openmoat.config.diff import diff
from openmoat.config.kept import Kept, Record
from openmoat.config.key_files import MAX_PSK, Files
from openmoat.config.kinds import MAX_REMEMBERED_TEXTS
from openmoat.config.options import IDENTITY
from openmoat.config.source import MAX_FILE
from openmoat.config.toml import Configuration, load
from openmoat.crypto.identities import Identity
from openmoat.crypto.keys import KeyKind, generate, private_pem, public_line, spki_of
from openmoat.errors import ConfigError
from openmoat.model.connection import Child, Connection, PrivateKey, Psk, RawKey, Start
from openmoat.model.proposals import DEFAULT_ESP_PROPOSALS, DEFAULT_IKE_PROPOSALS
from openmoat.model.settings import MAX_WORKERS, EngineSettings, OnStop
from openmoat.mtu.words import Df, MtuPolicy
from unit.config.folder import RECORD, SECRET, Folder


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def test_a_short_record_becomes_a_whole_connection(folder: Folder) -> None:
    configuration = folder.load(RECORD)
    home = configuration.connections["home"]
    assert home.local_identity == Identity.parse("home.example")
    assert home.peer.addresses == (ipaddress.ip_address("192.0.2.1"), "portal.example")
    assert home.own == home.peer.credential
    assert isinstance(home.own, Psk)
    assert configuration.psks == {home.own.name: SECRET.encode()}
    assert home.proposals == DEFAULT_IKE_PROPOSALS
    assert home.children[0].proposals == DEFAULT_ESP_PROPOSALS
    assert home.children[0].start is Start.AUTO
    assert str(home.children[0].remote[1]) == "10.3.0.0/16[tcp/443]"


def test_an_empty_file_is_a_daemon_without_connections(folder: Folder) -> None:
    assert folder.load("") == Configuration()


def test_each_offload_can_be_switched_off(folder: Folder) -> None:
    assert folder.load("").settings.engine == EngineSettings()
    settings = folder.load("[engine]\ntun-uso = false\nudp-gro = false").settings
    assert settings.engine == EngineSettings(tun_uso=False, udp_gro=False)
    assert folder.faults("[engine]\nudp-gso = 1") == [
        "moat.toml:2: engine: udp-gso: true or false without quotes, not 1"
    ]
    assert folder.faults("[engine]\nudp-gos = true")[0].startswith(
        'moat.toml:2: engine: udp-gos: no such option. Did you mean "udp-gso"?'
    )


def test_workers_are_chosen_by_the_machine_or_by_number(folder: Folder) -> None:
    assert folder.load("").settings.engine.workers == "auto"
    assert folder.load(f"[engine]\nworkers = {MAX_WORKERS}").settings.engine.workers == MAX_WORKERS
    for wrong in (0, MAX_WORKERS + 1):
        bounds = f"auto or 1 to {MAX_WORKERS}"
        assert folder.faults(f"[engine]\nworkers = {wrong}") == [f"moat.toml:2: engine: workers: {bounds}, not {wrong}"]
    for word in ('"many"', "true"):
        [fault] = folder.faults(f"[engine]\nworkers = {word}")
        assert fault.startswith("moat.toml:2: engine: workers: auto or a number, ")


def test_settings_of_the_daemon_are_read(folder: Folder) -> None:
    settings = folder.load('[daemon]\non-stop = "open"\ncookie-threshold = 55\nkey-log = "/tmp/keys"').settings
    assert (settings.on_stop, settings.cookie_threshold, settings.key_log) == (OnStop.OPEN, 55, "/tmp/keys")


def test_a_peer_without_address_is_waited_for(folder: Folder) -> None:
    text = RECORD.replace('peer.addresses = ["192.0.2.1", "portal.example"]', "")
    assert folder.load(text).connections["home"].children[0].start is Start.NONE


def test_a_pattern_makes_a_template(folder: Folder) -> None:
    home = folder.load(RECORD.replace('"portal.example"\n', '"*.moats.example"\n', 1)).connections["home"]
    assert home.is_template
    assert home.children[0].start is Start.NONE


def test_keys_are_read_and_named_by_their_file(folder: Folder) -> None:
    key, peer = generate(KeyKind.ED25519), generate(KeyKind.ECDSA_P256)
    folder.secret("home.key", private_pem(key))
    text = RECORD.replace('psk = "home.psk"', 'local.key = "home.key"')
    configuration = folder.load(
        text.replace("peer.identity", f'peer.key = "{public_line(spki_of(peer))}"\npeer.identity')
    )
    home = configuration.connections["home"]
    assert home.own == PrivateKey(str(folder.path / "home.key"))
    assert configuration.private_keys[str(folder.path / "home.key")] == private_pem(key)
    assert home.peer.credential == RawKey(spki_of(peer))
    assert "PRIVATE" not in repr(configuration)


def test_lifetimes_are_written_with_units(folder: Folder) -> None:
    lifetimes = '[connections.home.children.office.lifetimes]\nrekey-after = "30m"\nrekey-octets = "500MB"'
    home = folder.load(RECORD + lifetimes).connections["home"]
    assert home.children[0].lifetimes.rekey_after == 1800
    assert home.children[0].lifetimes.hard == pytest.approx(2100)
    assert home.children[0].lifetimes.rekey_octets == 500_000_000


def test_a_limit_that_is_switched_off_stays_off_beside_the_other(folder: Folder) -> None:
    home = folder.load(RECORD + '[connections.home.lifetimes]\nrekey-after = "1h"\nhard = 0\n').connections["home"]
    assert (home.lifetimes.rekey_after, home.lifetimes.hard) == (3600, 0)
    home = folder.load(RECORD + '[connections.home.lifetimes]\nrekey-after = 0\nhard = "2h"\n').connections["home"]
    assert (home.lifetimes.rekey_after, home.lifetimes.hard) == (0, 7200)


def test_a_directory_of_records_is_included(folder: Folder) -> None:
    folder.write("conf.d/a.toml", RECORD.replace("home.psk", "../home.psk"))
    folder.write(
        "conf.d/b.toml", RECORD.replace("home.psk", "../home.psk").replace("connections.home", "connections.hut")
    )
    folder.write("conf.d/notes.txt", "not TOML")
    configuration = folder.load('include = "conf.d"')
    assert sorted(configuration.connections) == ["home", "hut"]
    assert configuration.sources["hut"] == str(folder.path / "conf.d/b.toml")


def test_a_name_may_stand_in_one_file_only(folder: Folder) -> None:
    folder.write("conf.d/a.toml", RECORD.replace("home.psk", "../home.psk"))
    assert folder.faults('include = "conf.d"' + RECORD) == [
        'conf.d/a.toml:2: connection "home": is already defined in moat.toml; give one of them another name'
    ]


def test_an_included_file_holds_connections_only(folder: Folder) -> None:
    folder.write("conf.d/a.toml", "[daemon]\n")
    assert folder.faults('include = "conf.d"')[0].startswith("conf.d/a.toml:1: daemon: an included file holds")


def test_all_faults_are_told_together_with_line_and_suggestion(folder: Folder) -> None:
    text = """[daemon]
on-stop = "blok"
devise = "moat0"

[connections.cabin]
psk = "home.psk"
proposals = ["aes256x-prfsha256-x25519"]
local.identity = "cabin.example"

[connections.cabin.peer]
adresses = ["192.0.2.1"]
identity = "*x"

[connections.cabin.children.office]
local = ["10.1.0.5/24",
         "nope"]
path-mtu = "1500"
mtu-policy = "large"
df = "no"
mss = true
"""
    assert folder.faults(text) == [
        'moat.toml:2: daemon: on-stop: block or open, not "blok". Did you mean "block"?',
        'moat.toml:3: daemon: devise: no such option. Did you mean "device"?',
        'moat.toml:7: connection "cabin": proposals: no algorithm "aes256x". Did you mean "aes256", "aes256gcm16" or'
        ' "sha256"?',
        'moat.toml:11: connection "cabin": peer: adresses: no such option. Did you mean "addresses"?',
        "moat.toml:12: connection \"cabin\": peer: identity: identity '*x': a star stands alone or before a suffix,"
        " as in *.moats.example",
        'moat.toml:14: connection "cabin": child "office": remote: is missing',
        'moat.toml:15: connection "cabin": child "office": local: \'10.1.0.5/24\' has bits beyond its prefix length.'
        ' Did you mean "10.1.0.0/24"?',
        'moat.toml:16: connection "cabin": child "office": local: \'nope\' is not an address, a prefix or a range such as'
        " 10.2.0.1-10.2.0.9",
        'moat.toml:17: connection "cabin": child "office": path-mtu: discover or a number without quotes, not "1500"',
        'moat.toml:18: connection "cabin": child "office": mtu-policy: virtual, rfc4301, clamp, outer-fragments or'
        ' pre-fragment, not "large"',
        'moat.toml:19: connection "cabin": child "office": df: copy, set, clear or ignore, not "no"',
        'moat.toml:20: connection "cabin": child "office": mss: off, fit or a number, not true',
    ]


def test_wishes_about_sizes_reach_the_child(folder: Folder) -> None:
    text = RECORD + 'mtu-policy = "clamp"\ndf = "ignore"\nmss = 1300\n'
    (child,) = folder.load(text).connections["home"].children
    assert (child.mtu_policy, child.df, child.mss) == (MtuPolicy.CLAMP, Df.IGNORE, 1300)


def test_what_the_model_refuses_is_told_at_the_line_of_its_option(folder: Folder) -> None:
    text = RECORD + 'replay-window = 100\n[connections.home.lifetimes]\nhard = "1h"\nrekey-after = "2h"\n'
    assert folder.faults(text) == [
        'moat.toml:11: connection "home": child "office": replay-window: a multiple of 64 from 0 to 4096, not 100',
        'moat.toml:14: connection "home": lifetimes: rekey-after: less than hard (3600), not 7200',
    ]


def test_alternatives_name_their_group_and_their_order_in_it(folder: Folder) -> None:
    home = folder.load(RECORD.replace("psk =", 'group = "office"\norder = -2\npsk =', 1)).connections["home"]
    assert (home.group, home.order) == ("office", -2)
    plain = folder.load(RECORD).connections["home"]
    assert (plain.group, plain.order) == (None, 0)
    assert folder.faults(RECORD.replace("psk =", "order = 1\npsk =", 1)) == [
        'moat.toml:3: connection "home": order: only with group, not alone; give all alternatives the same group'
    ]


def test_a_start_that_cannot_be_is_told_at_its_line(folder: Folder) -> None:
    text = RECORD.replace('peer.addresses = ["192.0.2.1", "portal.example"]', "") + 'start = "auto"\n'
    assert folder.faults(text) == [
        'moat.toml:11: connection "home": child "office": start: must be none, because the peer has no address'
    ]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("a = ", "moat.toml:1: not TOML: invalid value"),
        ("\n\n[daemon\n", "moat.toml:3: not TOML: expected ']'"),
        ("inclde = 1", 'moat.toml:1: inclde: no such option. Did you mean "include"?'),
        ("connections = 5", "moat.toml:1: connections: a table for each connection"),
        ("[connections]\nhome = 5", 'moat.toml:2: connection "home": a table, not 5'),
        ("daemon = []", "moat.toml:1: daemon: a table, not an empty list"),
        ('[daemon]\ndevice = "a/b"', "moat.toml:2: daemon: device: 1 to 15 letters"),
        ('include = "nowhere"', 'moat.toml:1: include: a directory; "nowhere" cannot be read: No such file'),
        ("include = 5", "moat.toml:1: include: a directory, not 5"),
    ],
)
def test_a_fault_of_the_file_names_its_line(folder: Folder, text: str, fault: str) -> None:
    assert any(told.startswith(fault) for told in folder.faults(text)), folder.faults(text)


def test_a_file_that_is_not_there_or_not_text_is_a_fault(folder: Folder) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.toml: cannot be read: No such file"):
        load(folder.path / "nowhere.toml")
    with pytest.raises(ConfigError, match=r"moat\.toml:2: not text in UTF-8"):
        load(folder.write("moat.toml", b"# a\n\xff"))


@pytest.mark.parametrize(
    ("mode", "complaint"), [(0o640, "can be read by others (mode 640); chmod 600"), (0o604, "can be read by others")]
)
def test_a_secret_that_others_may_read_is_refused(folder: Folder, mode: int, complaint: str) -> None:
    folder.secret("home.psk", SECRET, mode)
    assert complaint in folder.faults(RECORD)[0]


def test_a_secret_of_somebody_else_is_refused(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() == 0:
        os.chown(folder.path / "home.psk", 12345, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert "not to root, to us or to the owner" in folder.faults(RECORD)[0]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_root_may_read_the_secrets_of_whoever_owns_the_configuration(folder: Folder) -> None:
    os.chown(folder.path / "home.psk", 12345, -1)
    os.chown(folder.write("moat.toml", RECORD), 12345, -1)
    assert load(folder.path / "moat.toml").psks


def test_a_short_secret_is_refused(folder: Folder) -> None:
    folder.secret("home.psk", "hunter2")
    assert folder.faults(RECORD) == [
        'moat.toml:3: connection "home": psk: home.psk: a pre-shared key of 16 to 4096 octets, not 7;'
        " see: moat keys generate --kind psk"
    ]


def test_a_secret_may_be_as_long_as_its_bound_and_not_one_longer(folder: Folder) -> None:
    folder.secret("home.psk", "x" * MAX_PSK)
    assert folder.load(RECORD).psks
    folder.secret("home.psk", "x" * (MAX_PSK + 1))
    assert folder.faults(RECORD) == [
        f'moat.toml:3: connection "home": psk: home.psk: a pre-shared key of 16 to {MAX_PSK} octets, not {MAX_PSK + 1};'
        " see: moat keys generate --kind psk"
    ]


def test_a_configuration_file_longer_than_its_bound_is_refused(folder: Folder) -> None:
    assert folder.load(RECORD + "#" * (MAX_FILE - len(RECORD))).connections
    (fault,) = folder.faults(RECORD + "#" * (MAX_FILE - len(RECORD) + 1))
    assert f"has more than {MAX_FILE} octets" in fault


def test_a_pipe_in_the_place_of_a_key_does_not_hold_the_daemon(folder: Folder) -> None:
    (folder.path / "home.psk").unlink()
    os.mkfifo(folder.path / "home.psk", 0o600)
    assert folder.faults(RECORD) == ['moat.toml:3: connection "home": psk: home.psk is not a file']


def test_a_key_file_without_key_is_refused(folder: Folder) -> None:
    folder.secret("home.key", "-----BEGIN NONSENSE-----")
    text = RECORD.replace('psk = "home.psk"', 'local.key = "home.key"\npeer.key-file = "home.key"')
    faults = folder.faults(text)
    assert faults[0].startswith('moat.toml:3: connection "home": local: key: home.key: private key:')
    assert faults[1].startswith('moat.toml:4: connection "home": peer: key-file: home.key: public key:')


def test_each_end_proves_itself_in_one_way(folder: Folder) -> None:
    assert folder.faults(RECORD.replace('psk = "home.psk"', "")) == [
        'moat.toml:4: connection "home": local: exactly one of key and psk is needed',
        'moat.toml:5: connection "home": peer: exactly one of psk, key, key-file and ca-certificates is needed; none is given',
    ]


def test_certificates_must_be_of_our_key(folder: Folder) -> None:
    folder.secret("home.key", private_pem(generate(KeyKind.ED25519)))
    folder.write("home.pem", certificate())
    text = RECORD.replace('psk = "home.psk"', 'local.key = "home.key"\nlocal.certificates = "home.pem"')
    text = text.replace("peer.identity", 'peer.ca-certificates = "home.pem"\npeer.identity')
    assert folder.faults(text) == [
        'moat.toml:4: connection "home": local: certificates: the first certificate is of another key than home.key'
    ]


def certificate() -> bytes:
    key = ed25519.Ed25519PrivateKey.generate()
    name = x509.Name.from_rfc4514_string("CN=home")
    begin = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(begin).not_valid_after(begin + dt.timedelta(days=1))
    return builder.sign(key, None).public_bytes(Encoding.PEM)


class Included(Folder):
    """A configuration of many included files, each with a connection."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
        super().__init__(path)
        # The times of files that were just written are not trusted, and a test does not wait.
        monkeypatch.setattr(stamps, "SETTLED_SECONDS", -1.0)
        self.write("moat.toml", 'include = "records"\n')
        for number in range(count):
            self.add(f"c{number}")

    def add(self, name: str, remote: str = "10.2.0.0/16", secret: str = "home.psk") -> None:
        self.write(f"records/{name}.toml", record(name, remote, f"../{secret}"))

    def again(self, before: Configuration | None = None) -> Configuration:
        return load(self.path / "moat.toml", before)


def record(name: str, remote: str, secret: str) -> str:
    return f"""
[connections.{name}]
psk = "{secret}"
local.identity = "home.example"
peer.identity = "{name}.example"
children.lan = {{ local = "10.1.0.0/24", remote = "{remote}" }}
"""


@pytest.fixture
def included(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Included:
    return Included(tmp_path, monkeypatch, 5)


def test_an_added_file_is_the_only_one_that_is_parsed(included: Included) -> None:
    before = included.again()
    included.add("cabin")
    after = included.again(before)
    assert after == included.again()
    assert all(after.connections[name] is one for name, one in before.connections.items())
    assert diff(before, after).added == ("cabin",)
    assert not diff(before, after).changed


def test_a_file_that_changes_or_goes_is_seen(included: Included) -> None:
    before = included.again()
    included.add("c1", remote="10.9.0.0/16")
    (included.path / "records/c2.toml").unlink()
    after = included.again(before)
    assert after == included.again()
    assert (tuple(diff(before, after).changed), diff(before, after).removed) == (("c1",), ("c2",))


def test_a_key_file_that_changes_is_read_again_with_all_that_name_it(included: Included) -> None:
    included.secret("other.psk", SECRET + " of its own")
    included.add("cabin", secret="other.psk")
    before = included.again()
    included.secret("other.psk", SECRET + " that is new")
    after = included.again(before)
    assert after == included.again()
    assert tuple(diff(before, after).changed) == ("cabin",)


def test_a_secret_that_others_may_read_by_now_is_refused_at_a_reload(included: Included) -> None:
    before = included.again()
    (included.path / "home.psk").chmod(0o644)
    with pytest.raises(ConfigError, match="can be read by others"):
        included.again(before)


def test_a_connection_that_is_moved_to_another_file_is_not_told_as_a_second_one(included: Included) -> None:
    before = included.again()
    (included.path / "records/c4.toml").rename(included.path / "records/a.toml")
    after = included.again(before)
    assert after == included.again()
    included.write("records/c0-again.toml", record("c0", "10.2.0.0/16", "../home.psk"))
    with pytest.raises(ConfigError, match="is already defined in"):
        included.again(after)


def test_a_file_that_was_just_written_is_parsed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Included(tmp_path, monkeypatch, 2)
    monkeypatch.setattr(stamps, "SETTLED_SECONDS", 3600.0)
    before = folder.again()
    after = folder.again(before)
    assert after == before
    assert not any(after.connections[name] is one for name, one in before.connections.items())


def test_a_file_that_is_changed_in_place_is_seen_whatever_its_size_and_time_say(included: Included) -> None:
    before = included.again()
    file = included.path / "records/c1.toml"
    status = file.stat()
    included.add("c1", remote="10.9.0.0/16")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns, file.stat().st_ino) == (
        status.st_size,
        status.st_mtime_ns,
        status.st_ino,
    )
    assert tuple(diff(before, included.again(before)).changed) == ("c1",)


def test_a_name_that_the_file_itself_takes_from_an_included_one_is_told(included: Included) -> None:
    before = included.again()
    included.write("moat.toml", 'include = "records"\n' + record("c3", "10.2.0.0/16", "home.psk"))
    with pytest.raises(ConfigError, match=r"c3.toml:.*is already defined in .*moat.toml"):
        included.again(before)
    (included.path / "records/c3.toml").unlink()
    after = included.again(before)
    assert after == included.again()
    assert (after.sources["c3"], len(after.connections)) == (str(included.path / "moat.toml"), 5)


def work(call: Callable[[], object]) -> Counter[str]:
    """System calls by name, and calls of Python functions."""
    counts = Counter[str]()

    def hear(_frame: object, event: str, called: object) -> None:
        if event == "c_call" and called in {os.stat, os.listdir, os.open, _native.stamps}:
            counts[called.__name__] += 1
        elif event == "call":
            counts["python"] += 1

    sys.setprofile(hear)
    try:
        call()
    finally:
        sys.setprofile(None)
    return counts


def test_what_is_unchanged_costs_one_look_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {}
    for count in (10, 200):
        (tmp_path / str(count)).mkdir()
        folder = Included(tmp_path / str(count), monkeypatch, count)
        before = folder.again(folder.again())
        folder.add("cabin")
        found[count] = work(lambda folder=folder, before=before: folder.again(before))  # type: ignore[misc]
    few, many = found.values()
    assert many["open"] == few["open"] == 2
    # All files are looked at in one call, and so are those that are new or not included, each in one of its own.
    assert many["stamps"] == few["stamps"]
    assert many["stat"] == few["stat"]
    # Generators run on for each member: two for each file.
    assert many["python"] - few["python"] < 3 * 190


KINDS = {Configuration, Connection, Child, Kept, Record, Files}


def test_reloads_leave_nothing_behind(included: Included) -> None:
    def objects() -> Counter[type]:
        gc.collect()
        return Counter(type(one) for one in gc.get_objects() if type(one) in KINDS)

    configuration = included.again()
    counts = []
    for number in range(4):
        included.add("c0", remote=f"10.{number}.0.0/16")
        configuration = included.again(configuration)
        counts.append(objects())
    assert len(configuration.connections) == 5
    assert counts[-1] == counts[0]


def test_what_connections_have_in_common_is_one_object(included: Included) -> None:
    configuration = included.again()
    one, other = configuration.connections["c0"], configuration.connections["c1"]
    assert one.children[0].local[0] is other.children[0].local[0]
    assert one.local_identity is other.local_identity


def test_no_more_texts_are_remembered_than_the_bound() -> None:
    def identity(number: int) -> Identity:
        return IDENTITY.read(f"h{number}.example")

    first = identity(0)
    assert identity(0) is first
    for number in range(MAX_REMEMBERED_TEXTS + 1):
        identity(number)
    assert identity(0) == first
    assert identity(0) is not first
