"""All errors of a configuration are told together, each once, with its line and what to write instead."""

import os
import time
from pathlib import Path

import pytest

from openmoat.config.lines import MAX_NESTING
from openmoat.config.source import MAX_TEXT
from openmoat.config.words import MAX_SHOWN
from openmoat.crypto.keys import KeyKind, generate, private_pem
from openmoat.model.connection import MAX_LIMIT, MAX_PRIORITY
from unit.config.folder import RECORD, Folder


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def record(name: str, more: str = "", psk: str = "home.psk") -> str:
    return RECORD.replace("connections.home", f"connections.{name}").replace("home.psk", psk) + more


def test_a_misspelt_key_does_not_hide_a_missing_key_file(folder: Folder) -> None:
    text = RECORD.replace("peer.addresses", "peer.adresses").replace("home.psk", "gone.psk")
    assert folder.faults(text) == [
        'moat.toml:3: connection "home": psk: no such file or directory; this option names a file that holds the key',
        'moat.toml:6: connection "home": peer: adresses: no such option. Did you mean "addresses"?',
    ]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("\n[demon]\n", 'moat.toml:2: demon: no such option. Did you mean "daemon"?'),
        ("\n[conections.home]\na = 1", 'moat.toml:2: conections: no such option. Did you mean "connections"?'),
        ("\n\n[x.y.z]\n", "moat.toml:3: x: no such option; there are include, daemon, engine, connections"),
        ('"de\\u006don" = 1', 'moat.toml:1: demon: no such option. Did you mean "daemon"?'),
    ],
)
def test_an_unknown_table_has_a_line(folder: Folder, text: str, fault: str) -> None:
    assert folder.faults(text) == [fault]


def test_a_misspelt_table_beside_the_right_one_is_suggested(folder: Folder) -> None:
    assert folder.faults("[daemon]\n[deamon]\n") == ['moat.toml:2: deamon: no such option. Did you mean "daemon"?']


def test_text_without_quotes_is_told_so(folder: Folder) -> None:
    assert folder.faults("[daemon]\ndevice = moat0\n") == [
        'moat.toml:2: not TOML: invalid value; text stands in quotes, as in name = "text"'
    ]


def test_an_option_that_is_missing_because_it_is_misspelt_is_told_once(folder: Folder) -> None:
    assert folder.faults(RECORD.replace("local.identity", "local.identty")) == [
        'moat.toml:4: connection "home": local: identty: no such option. Did you mean "identity"?'
    ]
    assert folder.faults(RECORD.replace("psk =", "pks =")) == [
        'moat.toml:3: connection "home": pks: no such option. Did you mean "psk"?'
    ]
    assert folder.faults(RECORD.replace(".children.", ".childen.")) == [
        'moat.toml:8: connection "home": childen: no such option. Did you mean "children"?'
    ]


def test_errors_of_all_included_files_are_told(folder: Folder) -> None:
    folder.write("conf.d/a.toml", "[connections.a\n")
    folder.write("conf.d/b.toml", record("b", "priority = 5000\n", "../home.psk"))
    folder.write("conf.d/c.toml", b"\xff")
    folder.write("conf.d/d.toml", record("d", "", "../gone.psk"))
    (folder.path / "conf.d/e.toml").mkdir()
    (folder.path / "conf.d/f.toml").symlink_to("nowhere")
    faults = folder.faults('include = "conf.d"\n[daemon]\ndevise = 1\n')
    assert [fault.partition(" ")[0] for fault in faults] == [
        "moat.toml:3:", "conf.d/a.toml:1:", "conf.d/b.toml:11:", "conf.d/c.toml:1:", "conf.d/d.toml:3:",
        "conf.d/e.toml:", "conf.d/f.toml:",
    ]  # fmt: skip


def test_errors_of_a_child_do_not_hide_those_of_its_sibling_or_of_the_connection(folder: Folder) -> None:
    more = """priority = 1001
replay-window = 100
mss = "big"
[connections.home.children.lab]
local = "10.1.0.0/24"
remote = "2001:db8::/64"
start = "often"
[connections.home.children.yard]
local = "10.1.0.0/24"
[connections.home.lifetimes]
jitter = 0.7
rekey-after = "soon"
"""
    assert MAX_PRIORITY == 1000
    assert folder.faults(RECORD.replace("peer.add", "order = 1\npeer.add") + more) == [
        'moat.toml:6: connection "home": order: only with group, not alone; give all alternatives the same group',
        'moat.toml:12: connection "home": child "office": priority: -1000 to 1000, not 1001',
        'moat.toml:13: connection "home": child "office": replay-window: a multiple of 64 from 0 to 4096, not 100',
        'moat.toml:14: connection "home": child "office": mss: off, fit or a number, not "big"',
        'moat.toml:17: connection "home": child "lab": remote: an address family that local has too; a packet has one'
        " family at both ends",
        'moat.toml:18: connection "home": child "lab": start: auto, trap or none, not "often"',
        'moat.toml:19: connection "home": child "yard": remote: is missing',
        'moat.toml:22: connection "home": lifetimes: jitter: 0 to 0.5, not 0.7',
        'moat.toml:23: connection "home": lifetimes: rekey-after: a time such as "1h", "90m", "1h30m" or "45s", not "soon"',
    ]


def test_a_wrong_value_brings_no_other_errors_with_it(folder: Folder) -> None:
    text = RECORD.replace('["192.0.2.1", "portal.example"]', "5").replace('"10.1.0.0/24"', '"x"') + 'start = "auto"\n'
    assert [fault.partition(": ")[0] for fault in folder.faults(text)] == ["moat.toml:6", "moat.toml:9"]
    assert [fault.partition(": ")[0] for fault in folder.faults(RECORD.replace('"home.psk"', "5"))] == ["moat.toml:3"]


def test_both_tables_of_settings_tell_all_their_errors(folder: Folder) -> None:
    text = '[daemon]\ndevice = "a/b"\nlog-level = "loud"\nfragment-size = 1\n[engine]\nworkers = 0\ntun-tso = 1\n'
    assert [fault.partition(": ")[0] for fault in folder.faults(text)] == [
        f"moat.toml:{line}" for line in (2, 3, 4, 6, 7)
    ]


def test_parts_that_are_no_tables_are_told(folder: Folder) -> None:
    assert folder.faults("[connections.home]\nlocal = 5\npeer = []\nchildren = {}\nlifetimes = true\n") == [
        'moat.toml:2: connection "home": local: a table, not 5',
        'moat.toml:3: connection "home": peer: a table, not an empty list',
        'moat.toml:4: connection "home": children: one table at least, not an empty table',
        'moat.toml:5: connection "home": lifetimes: a table, not true',
    ]


def test_a_key_and_its_certificates_are_both_looked_at(folder: Folder) -> None:
    text = RECORD.replace(
        'psk = "home.psk"', 'local.key = "gone.key"\nlocal.certificates = ["gone.pem"]\npeer.psk = "home.psk"'
    )
    assert [fault.partition(": ")[0] for fault in folder.faults(text)] == ["moat.toml:3", "moat.toml:4"]
    both = RECORD.replace("local.identity", 'local.psk = "a.psk"\npeer.psk = "b.psk"\nlocal.identity')
    assert [fault.partition(": ")[0] for fault in folder.faults(both)] == ["moat.toml:4", "moat.toml:5"]


def test_credentials_that_exclude_each_other_are_told_at_the_second(folder: Folder) -> None:
    text = RECORD.replace("local.identity", 'peer.key-file = "home.psk"\nlocal.identity')
    assert folder.faults(text) == [
        'moat.toml:4: connection "home": peer: key-file: exactly one of psk, key, key-file and ca-certificates is needed;'
        " psk and key-file are given"
    ]


def test_a_second_connection_of_a_name_is_told_with_its_own_errors(folder: Folder) -> None:
    folder.write("conf.d/a.toml", record("home", "priority = 5000\n", "../home.psk"))
    assert [fault.partition(": ")[0] for fault in folder.faults('include = "conf.d"' + RECORD)] == [
        "conf.d/a.toml:2",
        "conf.d/a.toml:11",
    ]
    wrong = RECORD.replace("10.1.0.0/24", "x")
    assert [fault.partition(": ")[0] for fault in folder.faults('include = "conf.d"' + wrong)] == [
        "moat.toml:9",
        "conf.d/a.toml:2",
        "conf.d/a.toml:11",
    ]


@pytest.mark.parametrize(
    "address", ["192.0.2.300", "10.1", "1.2.3.4.5", "0.0.0.0", "224.0.0.1", "::", "fe80::1%eth0", "2001:db8::g"]
)
def test_an_address_that_no_host_can_have_is_told(folder: Folder, address: str) -> None:
    (fault,) = folder.faults(RECORD.replace('["192.0.2.1", "portal.example"]', f'["192.0.2.1",\n"{address}"]'))
    assert fault.startswith('moat.toml:7: connection "home": peer: addresses: ')
    assert address in fault


@pytest.mark.parametrize("place", ["local.identity", "peer.identity"])
def test_an_identity_that_looks_like_an_address_and_is_none_is_told(folder: Folder, place: str) -> None:
    lines = [f'{place} = "192.0.2.300"' if line.startswith(place) else line for line in RECORD.splitlines()]
    (fault,) = folder.faults("\n".join(lines))
    assert "fqdn:192.0.2.300" in fault


def test_numbers_have_bounds(folder: Folder) -> None:
    more = f"[connections.home.children.office.lifetimes]\nhard-packets = {MAX_LIMIT + 1}\nrekey-octets = {10**30}\n"
    assert folder.faults(RECORD + more) == [
        f'moat.toml:12: connection "home": child "office": lifetimes: hard-packets: at most {MAX_LIMIT}, not {MAX_LIMIT + 1}',
        f'moat.toml:13: connection "home": child "office": lifetimes: rekey-octets: at most {MAX_LIMIT}, not {10**30}',
    ]
    assert "1" * 5000 not in folder.faults(f"[daemon]\nfragment-size = {'1' * 5000}\n")[0]


def test_a_file_that_anybody_may_write_is_refused(folder: Folder) -> None:
    def others_may_write(name: str, text: str = RECORD) -> list[str]:
        (folder.path / name).chmod((folder.path / name).stat().st_mode | 0o002)
        faults = folder.faults(text)
        (folder.path / name).chmod((folder.path / name).stat().st_mode & ~0o002)
        return faults

    folder.load(RECORD)
    assert others_may_write("moat.toml") == ["moat.toml: can be written by anybody (mode 646); chmod o-w moat.toml"]
    folder.write("conf.d/a.toml", record("a", "", "../home.psk"))
    assert others_may_write("conf.d/a.toml", 'include = "conf.d"')[0].startswith(
        "conf.d/a.toml: can be written by anybody"
    )
    assert others_may_write("conf.d", 'include = "conf.d"')[0].startswith(
        "moat.toml:1: include: conf.d can be written by"
    )
    folder.write("portal.pub", "x")
    text = RECORD.replace('psk = "home.psk"', 'local.psk = "home.psk"\npeer.key-file = "portal.pub"')
    assert "portal.pub can be written by anybody" in others_may_write("portal.pub", text)[0]


def test_a_pipe_in_the_place_of_a_configuration_holds_nobody(folder: Folder) -> None:
    (folder.path / "conf.d").mkdir()
    os.mkfifo(folder.path / "conf.d/a.toml")
    assert folder.faults('include = "conf.d"') == ["conf.d/a.toml: is not a file"]


def test_an_include_that_is_no_directory_is_told(folder: Folder) -> None:
    assert 'moat.toml:1: include: a directory; "moat.toml" cannot be read: Not a directory' in folder.faults(
        'include = "moat.toml"'
    )
    assert folder.faults('include = ""') == ['moat.toml:1: include: a directory, not ""']


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("\n" + ".".join("a" * 20_000) + " = 1", f"moat.toml:2: a key of at most {MAX_NESTING} parts; there are more"),
        ("[" + " . ".join(["'a'"] * (MAX_NESTING + 1)) + "]", f"moat.toml:1: a key of at most {MAX_NESTING} parts"),
        ("x = {" + ".".join("a" * 20_000) + " = 1}", f"moat.toml:1: a key of at most {MAX_NESTING} parts"),
        ("\nx = " + "[" * 5000 + "]" * 5000, f"moat.toml:2: at most {MAX_NESTING} lists and tables in each other"),
    ],
)  # fmt: skip
def test_a_text_that_nests_too_deep_is_refused_before_it_is_parsed(folder: Folder, text: str, fault: str) -> None:
    began = time.process_time()
    (told,) = folder.faults(text)
    assert told.startswith(fault)
    assert time.process_time() - began < 1.0


def test_what_only_looks_deep_is_read(folder: Folder) -> None:
    dots = ".".join("a" * 40)
    text = f"# {dots} = [[[[[[[[[[[[[[[[[[[[[[\n" + RECORD.replace(
        "10.1.0.0/24", '10.1.0.0/24", "10.5.0.0/24", "10.6.0.0/24'
    )
    text = text.replace(
        'local = "10.1.0.0/24", "10.5.0.0/24", "10.6.0.0/24"',
        'local = ["10.1.0.0/24", "10.5.0.0/24", "10.6.0.0/24", "10.7.0.0/24", "10.8.0.0/24", "10.9.0.0/24"]',
    )
    assert folder.load(text).connections
    deep = ".".join(["a"] * MAX_NESTING)
    assert folder.faults(f"{deep} = 1") == [
        "moat.toml:1: a: no such option; there are include, daemon, engine, connections"
    ]


@pytest.mark.parametrize("key", ["hunter2hunter2hunter2", "dG9wc2VjcmV0/dG9wc2VjcmV0", "x" * 5000])
def test_a_key_in_the_place_of_its_file_is_not_repeated(folder: Folder, key: str) -> None:
    (fault,) = folder.faults(RECORD.replace("home.psk", key))
    assert key not in fault
    assert "this option names a file" in fault
    pem = private_pem(generate(KeyKind.ED25519)).decode()
    text = RECORD.replace('psk = "home.psk"', f'local.key = """{pem}"""\npeer.psk = "home.psk"')
    (fault,) = folder.faults(text)
    assert pem.splitlines()[1] not in fault


def test_an_error_is_one_line_whatever_came(folder: Folder) -> None:
    text = (
        f'"a\\nb\\u001b[2J" = 1\n[daemon]\ndevice = "{"y" * 5000}"\nlog-level = "{"x" * 5000}"\non-stop = {{a = 1}}\n'
    )
    faults = folder.faults(text)
    assert [fault for fault in faults if not fault.isprintable()] == []
    assert faults[2].endswith('or debug, not "' + "x" * MAX_SHOWN + '..."')
    assert faults[0].startswith("moat.toml:1: a\\nb\\x1b[2J: no such option")
    assert all(len(fault) < 50 + MAX_TEXT for fault in faults)
