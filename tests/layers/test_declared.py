"""One declaration of each datum: what Python has of the engine's counters and flags is what the module says."""

from layers import declared
from openmoat import _native
from openmoat.dataplane.backend import SaCounters
from openmoat.dataplane.userspace import UserspaceBackend, open_engine


def test_the_generated_file_is_what_the_module_declares() -> None:
    assert declared.FILE.read_text() == declared.text(), "run python -m tests.layers.declared"


def test_the_engine_answers_with_the_counters_it_declares() -> None:
    engine = open_engine(tun=[], udp=[], raw=[], slots=64)
    assert UserspaceBackend(engine).read_counters() == []
    assert SaCounters.__struct_fields__[3:] == tuple(name for name, _ in _native.sa_counters())
    engine.stop()


def test_every_drop_has_a_word_of_its_own_and_a_sentence() -> None:
    rows = _native.drop_reasons()
    assert len({name for name, _ in rows}) == len(rows)
    assert all(sentence.strip() for _, sentence in rows)
