"""Where an export goes: standard output, a device, or a file that is replaced atomically."""

import pytest

from hl7core.cli.output.outfile import open_output
from hl7core.errors import StoreError


def test_a_file_is_replaced_at_the_end_and_only_its_owner_can_read_it(tmp_path):
    path = tmp_path / "out.jsonl"
    path.write_text("from before")
    path.chmod(0o644)
    with open_output(str(path)) as file:
        file.write(b"ours")
        file.flush()
        assert path.read_text() == "from before"
    assert path.read_text() == "ours"
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, StoreError])
def test_a_failed_export_keeps_the_file_that_was_there(tmp_path, error):
    path = tmp_path / "out.jsonl"
    path.write_text("from before")

    def fail():
        with open_output(str(path)) as file:
            file.write(b"half a li")
            raise error

    with pytest.raises(error):
        fail()
    assert path.read_text() == "from before"
    assert list(tmp_path.iterdir()) == [path]


def test_an_export_of_nothing_keeps_the_file_that_was_there(tmp_path):
    path = tmp_path / "out.jsonl"
    path.write_text("from before")
    with open_output(str(path)):
        pass
    assert path.read_text() == "from before"
    assert list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_written_is_said_with_its_path(tmp_path):
    with pytest.raises(StoreError, match="is a folder"), open_output(str(tmp_path)):
        pass
    missing = str(tmp_path / "no/such/out")
    with pytest.raises(StoreError, match=r"no/such/out cannot be written: No such file"), open_output(missing):
        pass


def test_a_device_is_written_to_as_it_is():
    with open_output("/dev/null") as file:
        file.write(b"x")


def test_standard_output_stays_open(capfdbinary):
    for name in (None, "-"):
        with open_output(name) as out:
            out.write(b"x")
    assert capfdbinary.readouterr().out == b"xx"


def test_a_link_is_replaced_and_what_it_points_to_stays(tmp_path):
    target = tmp_path / "target"
    target.write_text("somebody else's")
    link = tmp_path / "out"
    link.symlink_to(target)
    with open_output(str(link)) as file:
        file.write(b"ours")
    assert target.read_text() == "somebody else's"
    assert not link.is_symlink()
